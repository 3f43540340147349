"""The dual-stream encoder of VLE and METER: a text tower, an image tower, co-attention fusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from vle_lightning.batch import PretrainBatch
from vle_lightning.encoders.image import ImageConfig, ImageEncoder, PatchMask, patch_grid
from vle_lightning.encoders.text import TextConfig, TextEncoder
from vle_lightning.fusion.co_attention import CoAttentionFusion, FusionConfig
from vle_lightning.models.heads import Pooler, initialise
from vle_lightning.models.regions import box_patches, pool_patches
from vle_lightning.streams import Fused, FusedView, ImageView, Pairing, Stream, TextView

TEXT_TYPE, IMAGE_TYPE = 0, 1  # rows of the token-type table; tagged objects take the following ones


Blind = Literal["none", "image", "text"]  # what is withheld from the model, for baselines
Part = Literal["text", "image", "fusion"]


@dataclass(frozen=True)
class DualStreamConfig:
    """Sizes of the whole encoder; the defaults are VLE-base."""

    text: TextConfig = field(default_factory=TextConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    init_std: float = 0.02  # of all new weights


class DualStream(nn.Module):
    """Encode once, fuse as often as needed.

    A withheld side (``blind``) is one zero state: its tower does not run and does not train.
    """

    def __init__(self, config: DualStreamConfig, blind: Blind = "none") -> None:
        super().__init__()
        width = config.fusion.width
        self.config, self.blind, self.width = config, blind, width
        self.text = TextEncoder(config.text)
        self.image = ImageEncoder(config.image)
        self.text_projection = nn.Linear(config.text.width, width)
        self.image_projection = nn.Linear(config.image.width, width)
        self.token_types = nn.Embedding(config.fusion.token_types, width)
        self.fusion = CoAttentionFusion(config.fusion)
        self.text_pooler = Pooler(width)
        self.image_pooler = Pooler(width)
        initialise(self, config.init_std)
        withheld: dict[Blind, tuple[nn.Module, ...]] = {
            "none": (),
            "image": (self.image, self.image_projection),
            "text": (self.text, self.text_projection),
        }
        for part in withheld[blind]:
            part.requires_grad_(False)

    def resize_images(self, image_size: int) -> None:
        """Make the position table one of square pictures of so many pixels; others are still interpolated.

        Args:
            image_size: a multiple of the patch size.
        """
        if image_size != self.config.image.image_size:
            self.image.resize_positions(image_size)
            self.config = replace(self.config, image=replace(self.config.image, image_size=image_size))

    def layers(self) -> dict[Part, list[nn.Module]]:
        """Return the transformer layers of each part: what is sharded, recomputed and compiled one by one."""
        return {
            "text": list(self.text.layers),
            "image": list(self.image.layers),
            "fusion": [*self.fusion.text, *self.fusion.image],
        }

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Stream:
        """Encode B texts (B, T) to a stream of the fusion's width (B, T, D)."""
        if self.blind == "text":
            return self._withheld(len(input_ids))
        states, mask = self.text(input_ids, attention_mask)
        return Stream(self.text_projection(states), mask)

    def encode_image(self, pixel_values: Tensor, hidden: PatchMask | None = None) -> Stream:
        """Encode B images (B, 3, H, W) to a stream of the fusion's width (B, 1 + P, D)."""
        if self.blind == "image":
            return self._withheld(len(pixel_values))
        states, mask = self.image(pixel_values, hidden)
        return Stream(self.image_projection(states), mask)

    def pool_regions(self, image: Stream, patches: Tensor, valid: Tensor) -> Stream:
        """Average the projected patches of tagged objects.

        Args:
            image: B image streams (B, 1 + P, D).
            patches: (B, R, P) bool, the patches of each region (see `box_patches`).
            valid: (B, R) bool.

        Returns:
            B streams of R regions; none where the image is withheld. A valid region without patches is NaN, the mean
            of nothing, as in the published code: mark it as not valid to leave it out.
        """
        if self.blind == "image":
            return Stream(image.states[:, :0], image.mask[:, :0])
        states = pool_patches(image.states[:, 1:], patches)
        return Stream(states.masked_fill((valid & ~patches.any(-1))[..., None], torch.nan), valid)

    def fuse(
        self, text: Stream, image: Stream, text_types: Tensor | None = None, image_types: Tensor | None = None
    ) -> Fused:
        """Let B texts and B images attend to each other.

        Args:
            text: states (B, T, D), mask (B, T).
            image: states (B, N, D), mask (B, N); N is 1 + P, and R more where regions are appended.
            text_types: (B, T) int64 rows of the token-type table; all 0 by default.
            image_types: (B, N) likewise; all 1 by default.

        Returns:
            Fused states (B, T, D) and (B, N, D), and the pooled pair (B, 2D): text CLS, then image CLS.
        """
        text_type = self.token_types.weight[TEXT_TYPE] if text_types is None else self.token_types(text_types)
        image_type = self.token_types.weight[IMAGE_TYPE] if image_types is None else self.token_types(image_types)
        text_states, image_states = self.fusion(
            Stream(text.states + text_type, text.mask), Stream(image.states + image_type, image.mask)
        )
        pooled = torch.cat([self.text_pooler(text_states), self.image_pooler(image_states)], dim=-1)
        return Fused(text_states, image_states, pooled)

    def fuse_views(
        self, batch: PretrainBatch, views: Sequence[FusedView], mask_vector: Tensor | None = None
    ) -> list[Fused]:
        """Encode each distinct text and image once, all in one call each, and fuse each distinct view once.

        Views of one form of the image are fused in one call; those of the masked image have region tokens, which
        would be padding for the others.

        Args:
            batch: B pairs, H hidden boxes.
            views: what each objective asks for.
            mask_vector: (D,) of the image tower's width, what stands for hidden patches in views of the masked image;
                None: their pixels are black.

        Returns:
            One Fused of B pairs for each of ``views``, in their order; ``image`` has H region tokens after the
            patches where the image is masked.
        """
        distinct = list(dict.fromkeys(views))
        texts = self._encode_texts(batch, list(dict.fromkeys(view.text for view in distinct)))
        images = self._encode_images(batch, list(dict.fromkeys(view.image for view in distinct)), mask_vector)
        fused: dict[FusedView, Fused] = {}
        for kind, image in images.items():
            alike = [view for view in distinct if view.image is kind]
            text = _stack([_paired(texts[view.text], batch, view.pairing) for view in alike])
            parts = (tensor.split(len(batch)) for tensor in self.fuse(text, _stack([image] * len(alike))))
            fused |= zip(alike, (Fused(*part) for part in zip(*parts, strict=True)), strict=True)
        return [fused[view] for view in views]

    def _encode_texts(self, batch: PretrainBatch, kinds: list[TextView]) -> dict[TextView, Stream]:
        ids = {TextView.CLEAN: batch.input_ids, TextView.MASKED: batch.masked_input_ids}
        stream = self.encode_text(torch.cat([ids[kind] for kind in kinds]), batch.attention_mask.repeat(len(kinds), 1))
        return dict(zip(kinds, _unstack(stream, len(batch)), strict=True))

    def _encode_images(
        self, batch: PretrainBatch, kinds: list[ImageView], mask_vector: Tensor | None
    ) -> dict[ImageView, Stream]:
        pixels = batch.pixel_values.repeat(len(kinds), 1, 1, 1)
        if ImageView.MASKED not in kinds or self.blind == "image":
            return dict(zip(kinds, _unstack(self.encode_image(pixels), len(batch)), strict=True))
        drawn = batch.hidden_classes >= 0
        regions = box_patches(batch.hidden_boxes, patch_grid(batch.pixel_values, self.config.image.patch_size))
        covered = (regions & drawn[..., None]).any(1)
        hidden = torch.cat([covered if kind is ImageView.MASKED else torch.zeros_like(covered) for kind in kinds])
        streams = _unstack(self.encode_image(pixels, PatchMask(hidden, mask_vector)), len(batch))
        images = dict(zip(kinds, streams, strict=True))
        masked = images[ImageView.MASKED]
        images[ImageView.MASKED] = masked.append(self.pool_regions(masked, regions, drawn))
        return images

    def _withheld(self, rows: int) -> Stream:
        weight = self.token_types.weight
        return Stream(weight.new_zeros(rows, 1, self.width), weight.new_ones(rows, 1, dtype=torch.bool))


def _paired(text: Stream, batch: PretrainBatch, pairing: Pairing) -> Stream:
    return text if pairing is Pairing.TRUE else text.select(batch.partner)


def _stack(streams: list[Stream]) -> Stream:
    return Stream(*(torch.cat(tensors) for tensors in zip(*streams, strict=True)))


def _unstack(stream: Stream, rows: int) -> list[Stream]:
    return [Stream(*part) for part in zip(*(tensor.split(rows) for tensor in stream), strict=True)]
