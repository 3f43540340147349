"""VLMo's backbone (arXiv 2111.02358): one transformer whose feed-forward layers are experts for image, text and pairs.

Attention is shared by all. Below the last ``fusion_layers`` blocks a pair's text rows pass the text expert and its
image rows the image expert; above, all rows pass the vision-language expert. Text alone and image alone pass their own
expert in every block: the same weights serve as dual encoder, as fusion encoder, and as encoder of one modality.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from vle_lightning.encoders.base import PatchMask, PixelFacts, blackened
from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.errors import UserError
from vle_lightning.models.backbone import (
    IMAGE_TYPE,
    TEXT_TYPE,
    Adapted,
    Backbone,
    BackboneConfig,
    Blind,
    Features,
    Framing,
    Modality,
    Way,
)
from vle_lightning.models.experts import (
    IMAGE,
    PAIR,
    TEXT,
    BiasedAttention,
    MoMEBlock,
    PatchEmbeddings,
    Route,
    TextEmbeddings,
    added_scores,
)
from vle_lightning.models.heads import Pooler, initialise
from vle_lightning.models.relative_bias import (
    joint_index,
    resize_bias_table,
    table_rows,
)
from vle_lightning.streams import Fused, ImageLayout, Part, Stream, place

TEXT_POSITIONS = "text.positions.weight"
HALF = PixelFacts((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # BEiT's normalisation
Positions = Literal["relative", "absolute"]


@dataclass(frozen=True)
class MoMEConfig(BackboneConfig):
    """Sizes of a mixture-of-modality-experts transformer; the defaults are VLMo-Base.

    Attributes:
        fusion_layers: the last blocks, which have a vision-language expert; 0: none has.
        text_positions: tokens of the longest text that the relative table knows, or rows of the absolute table.
        positions: a relative bias in attention, or absolute tables (VLMo-Base-plus).
        layer_scale: what a block's two branches are multiplied by at first, a learned vector each; None: nothing.
        drop_path: stochastic depth at the last block, rising from 0 at the first; also dropout of the text embeddings.
        shared_experts: one feed-forward layer for all instead of experts (an ablation of the paper, table 5).
        attention_apart: below the fusion layers text and image do not read each other (an ablation, table 7).
    """

    image_size: int = 224
    patch_size: int = 16
    vocab_size: int = 30_522
    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    fusion_layers: int = 2
    text_positions: int = 196
    positions: Positions = "relative"
    layer_scale: float | None = 0.1
    drop_path: float = 0.1
    token_types: int = 2
    layer_norm_eps: float = 1e-6
    init_std: float = 0.02
    shared_experts: bool = False
    attention_apart: bool = False

    def build(self, blind: Blind = "none") -> MoME:
        """Make the module, its weights drawn at random; ``blind`` masks one modality."""
        return MoME(self, blind)

    def resized(self, image_size: int) -> Self:
        """Return the configuration of the same network for other pictures."""
        return replace(self, image_size=image_size)

    def part_of_call(self, way: Way) -> str:
        """Count every call with the one transformer."""
        del way
        return "fusion"

    def least_weights(self) -> int:
        """Return a lower bound of the number of parameters."""
        experts = 1 if self.shared_experts else 2
        block = 4 * self.width**2 + experts * 2 * self.width * self.intermediate
        return self.vocab_size * self.width + self.layers * block


class MoME(Backbone):
    """Streams before fusion are embeddings: fusion starts from them, not from what a modality alone is encoded to."""

    ways_alone: ClassVar[tuple[str, ...]] = ("single", "pair")
    alone_trains: ClassVar[bool] = True
    rates: ClassVar[Mapping[str, str]] = {"": "tower"}  # VLMo trains all of it at one rate
    types_option: ClassVar[str] = "token_types"
    framing: ClassVar[Framing] = "squeeze"  # as VLMo evaluates

    config: MoMEConfig
    places: Tensor  # (M + N, M + N) int64: which row of the table each query and key reads

    def __init__(self, config: MoMEConfig, blind: Blind = "none") -> None:
        super().__init__(config, blind)
        if config.image_size % config.patch_size:
            raise UserError(
                f"model.architecture: image_size {config.image_size} is not a multiple of "
                f"patch_size {config.patch_size}"
            )
        if not 0 <= config.fusion_layers <= config.layers:
            raise UserError(
                f"model.architecture: fusion_layers is {config.fusion_layers}; give 0 to {config.layers}, the layers"
            )
        if config.heads < 1 or config.width % config.heads:
            raise UserError(f"model.architecture: width {config.width} is not a multiple of heads {config.heads}")
        self.width = self.pooled_width = self.hidden_width = self.text_width = self.contrast_width = config.width
        self.vocabulary, self.max_tokens, self.padding = config.vocab_size, config.text_positions, 0
        self.layout, self.pixels = ImageLayout(1, config.patch_size), HALF
        self.init_std, self.norm_eps = config.init_std, 1e-12
        self.text, self.image = TextEmbeddings(config), PatchEmbeddings(config)
        self.token_types = nn.Embedding(config.token_types, config.width)
        self.blocks = nn.ModuleList(MoMEBlock(config, number) for number in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.pooler = Pooler(config.width)
        relative = config.positions == "relative"
        rows = table_rows(config.image_size // config.patch_size, config.text_positions)
        self.position_bias = nn.Parameter(torch.zeros(rows, config.layers * config.heads)) if relative else None
        self.register_buffer("places", self._places(), persistent=False)
        initialise(self, config.init_std)
        nn.init.normal_(self.image.class_embedding, std=config.init_std)
        masked = {"none": (), "image": (self.image,), "text": (self.text,)}[blind]
        for part in masked:
            part.requires_grad_(False)

    def _places(self) -> Tensor:
        """Return the index of the longest text and an image, of which shorter ones are a part."""
        known = self.config.text_positions
        return joint_index(self.window, known, known)

    @property
    def window(self) -> int:
        """Patches a side of the pictures that the positions are made for."""
        return self.config.image_size // self.config.patch_size

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The (V, D) table."""
        return self.text.words

    def layers(self) -> dict[str, list[nn.Module]]:
        """Return the blocks, which all modalities share."""
        return {"fusion": list(self.blocks)}

    def part_of(self, name: str) -> str:
        """Count everything with the one transformer."""
        del name
        return "fusion"

    def resize_images(self, image_size: int) -> None:
        """Make positions those of square pictures of so many pixels."""
        if image_size == self.config.image_size:
            return
        side = self._side(image_size)
        bias, absolute = self.position_bias, self.image.position_embedding
        if bias is not None and side < self.window:
            raise UserError(
                f"a relative position table for {self.config.image_size} pixels cannot shrink to {image_size}: set "
                f"model.architecture.image_size and data.image_size to at least {self.config.image_size}, or start "
                "from a checkpoint of smaller pictures"
            )
        with torch.no_grad():
            self._place_images(
                image_size,
                None if bias is None else resize_bias_table(bias, self.window, side),
                None if absolute is None else resize_position_table(absolute.weight, (side, side)).detach().clone(),
            )

    def reshape_images(self, image_size: int) -> None:
        """Make tables of zeros for such pictures; a table of relative positions could not shrink."""
        if image_size == self.config.image_size:
            return
        side = self._side(image_size)
        bias, absolute = self.position_bias, self.image.position_embedding
        self._place_images(
            image_size,
            None if bias is None else bias.new_zeros(table_rows(side, self.config.text_positions), bias.shape[1]),
            None if absolute is None else absolute.weight.new_zeros(1 + side**2, self.width),
        )

    def _side(self, image_size: int) -> int:
        if image_size % self.config.patch_size:
            raise UserError(f"pictures of {image_size} pixels are no multiple of the patches, {self.config.patch_size}")
        return image_size // self.config.patch_size

    def _place_images(self, image_size: int, bias: Tensor | None, absolute: Tensor | None) -> None:
        if bias is not None and self.position_bias is not None:
            self.position_bias = nn.Parameter(bias.detach(), self.position_bias.requires_grad)
        if absolute is not None and self.image.position_embedding is not None:
            freeze = not self.image.position_embedding.weight.requires_grad
            self.image.position_embedding = nn.Embedding.from_pretrained(absolute.detach(), freeze=freeze)
        self.config = self.config.resized(image_size)
        self.places = self._places().to(self.places.device)

    def adapt(self, weights: Mapping[str, Tensor], source: BackboneConfig) -> Adapted:
        """Draw experts for pairs where the source has none (VLMo's second stage), and cut absolute text positions."""
        adapted = Adapted(dict(weights))
        if not isinstance(source, MoMEConfig):
            return adapted
        own = self.state_dict()
        if source.fusion_layers == 0 < self.config.fusion_layers and not self.config.shared_experts:
            pair = {key: value for key, value in own.items() if f".experts.{PAIR}." in key}
            given = {**adapted.weights, **pair}
            adapted = Adapted(given, ("fusion_layers",), (), {"the experts of pairs": tuple(pair)})
        table, longest = adapted.weights.get(TEXT_POSITIONS), self.config.text_positions
        if self.config.positions == "absolute" and table is not None and len(table) > longest:
            given = {**adapted.weights, TEXT_POSITIONS: table[:longest]}
            told = f"the text positions from {len(table)} to {longest} tokens"
            adapted = Adapted(given, (*adapted.settled, "text_positions"), (told,), adapted.new)
        return adapted

    def encode_alone(self, stream: Stream, modality: Modality, first: bool = False) -> tuple[Stream, ...]:
        """Encode B texts or images by their own expert, and through the vision-language experts (VLMo, section 3.2).

        The two ways share all blocks below the fusion layers; above, both are one batched call. The last block computes
        the first state alone, which stands for the whole: each stream has one state.
        """
        pair = PAIR if self.config.fusion_layers or self.config.shared_experts else modality
        ways = (modality,) if first else (modality, pair)
        self._tell("text_alone" if modality == TEXT else "image_alone", (*stream.mask.shape, len(ways)))
        states, masks = self.begin(stream, modality)
        biases = self.biases(self.index_alone(modality, stream.mask.shape[1]))
        rows, last = len(states), len(self.blocks) - 1
        split = min(len(self.blocks) - self.config.fusion_layers, last)
        for number, block in enumerate(self.blocks):
            if number == split:
                states, masks = torch.cat([states] * len(ways)), torch.cat([masks] * len(ways))
            asking = states[:, :1] if number == last else states
            apart = tuple((rows, ((asking.shape[1], way),)) for way in (ways if number >= split else ways[:1]))
            scores = added_scores(biases, number, masks)
            if number < last:
                states = block(states, scores, Route(apart))
            else:
                states = block(states, scores[:, :, :1], Route(apart), asking)
        return tuple(Stream(part, stream.mask[:, :1]) for part in self.norm(states).split(rows))

    def encode_single(self, stream: Stream, modality: Modality) -> Tensor:
        """Encode a modality by itself with its own expert alone: states (B, N, D), before the last norm."""
        self._tell("text_single" if modality == TEXT else "image_single", stream.mask.shape)
        states, masks = self.begin(stream, modality)
        biases = self.biases(self.index_alone(modality, stream.mask.shape[1]))
        for number, block in enumerate(self.blocks):
            states = block(states, added_scores(biases, number, masks), Route.whole(states, modality))
        return states

    def encode_unimodal(self, stream: Stream, modality: Modality) -> Tensor:
        """Encode a modality by itself with its own expert alone: states (B, N, D), normed."""
        states: Tensor = self.norm(self.encode_single(stream, modality))
        return states

    def reads(self, name: str, modality: Modality) -> bool:
        """Say whether a modality by itself reads a parameter: not those of the other one's or of pairs' experts."""
        expert = name.split(".experts.")[-1].split(".")[0] if ".experts." in name else None
        if expert is not None:
            return expert == (TEXT if self.config.shared_experts else modality)
        return name.startswith(("blocks.", "token_types.", "norm.", "position_bias", f"{modality}."))

    @property
    def image_depth(self) -> int:
        """Return the number of blocks."""
        return len(self.blocks)

    def _image_layers(self, pixel_values: Tensor, depths: Sequence[int]) -> list[Stream]:
        """Pass the image experts of all blocks."""
        states, mask = self.begin(self._encode_image(pixel_values, None), IMAGE)
        biases = self.biases(self.index_alone(IMAGE, mask.shape[1]))
        found: list[Stream] = []
        for number, block in enumerate(self.blocks[: depths[-1]]):
            states = block(states, added_scores(biases, number, mask), Route.whole(states, IMAGE))
            if number + 1 in depths:
                found.append(Stream(states, mask))
        return found

    def features(
        self, text: tuple[Tensor, Tensor] | None, pixel_values: Tensor | None, rows: Tensor | None = None
    ) -> Features:
        """Return each modality's states alone, and the fused pairs; see `Backbone.features`."""
        texts = None if text is None else self.encode_text(*text)
        images = None if pixel_values is None else self.encode_image(pixel_values)
        images = images if images is None or rows is None else images.select(rows)
        alone = [
            stream and Stream(self.encode_unimodal(stream, modality), stream.mask)
            for stream, modality in ((texts, TEXT), (images, IMAGE))
        ]
        fused = None if texts is None or images is None else self.fuse(texts, images)
        return Features(alone[0], alone[1], fused)

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """Collect what the text's first state reads of the image in the last block; the rest goes to the text."""
        seen: list[Tensor] = []
        last = self.blocks[-1]
        assert isinstance(last, MoMEBlock)

        def collect(block: nn.Module, inputs: tuple[Any, ...]) -> None:
            states, scores, route, asking = (*inputs, None)[:4]
            assert isinstance(block, MoMEBlock)

            def keep(attention: nn.Module, given: tuple[Tensor, ...]) -> None:
                assert isinstance(attention, BiasedAttention)
                seen.append(attention.weights(*given)[:, :, :1, route.text_tokens :].detach())

            # ZeRO-3 gathers the weights of a module that is called, so the attention is called, and runs twice
            with block.attention.register_forward_pre_hook(keep):
                block.attention(block.norm(states), scores, None if asking is None else block.norm(asking))

        handle = last.register_forward_pre_hook(collect)
        try:
            yield seen
        finally:
            handle.remove()

    def _encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Stream:
        if input_ids.shape[1] > self.config.text_positions:
            raise UserError(
                f"a text has {input_ids.shape[1]} tokens, but the model positions for {self.config.text_positions}"
            )
        return Stream(self.text(input_ids), attention_mask)

    def _encode_image(self, pixel_values: Tensor, hidden: PatchMask | None) -> Stream:
        if hidden is not None and hidden.vector is None:
            pixel_values = blackened(pixel_values, hidden.patches, self.layout, self.pixels)
        grid = self.layout.grid(pixel_values)
        if self.position_bias is not None and grid != (self.window, self.window):
            height, width = pixel_values.shape[-2:]
            raise UserError(
                f"a picture has {height} x {width} pixels, but the model relative positions for "
                f"{self.config.image_size} x {self.config.image_size}; resize one of the two"
            )
        states = self.image(pixel_values, hidden, grid)
        return Stream(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))

    def _fuse(self, text: Stream, image: Stream, parts: Sequence[Part] | None) -> Fused:
        states, mask = text.append(image)
        tokens, split = text.mask.shape[1], len(self.blocks) - self.config.fusion_layers
        biases = self.biases(self._pair_index(tokens, image.mask.shape[1]))
        below: tuple[tuple[int, str], ...] = ((tokens, TEXT), (image.mask.shape[1], IMAGE))
        apart = self._apart(tokens, states) if self.config.attention_apart else None
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            is_below = number < split
            route = Route(((len(states), below),), tokens) if is_below else Route.whole(states, PAIR, tokens)
            scores = added_scores(biases, number, mask, apart if is_below else None)
            if number == last and parts is not None:
                states = self._read(states, scores, tokens, parts)
            else:
                states = block(states, scores, route)
        if parts is None:
            states = self.norm(states)
        pools = parts is None or any(part.reading.pools for part in parts)
        pooled = self.pooler(states[:, 0]) if pools else torch.zeros_like(states[:, 0])
        return Fused(states[:, :tokens], states[:, tokens:], pooled)

    def _read(self, states: Tensor, scores: Tensor, tokens: int, parts: Sequence[Part]) -> Tensor:
        """Pass the last block and norm with those states alone that are read; zeros stand for the others."""
        found, last, length = [], self.blocks[-1], states.shape[1]
        sizes = [part.rows for part in parts]
        rows = scores.expand(len(states), -1, -1, -1).split(sizes)
        for (count, (text, image)), before, added in zip(parts, states.split(sizes), rows, strict=True):
            asked, looked = before[:, :tokens][:, text], before[:, tokens:][:, image]
            few = added[:, :, :tokens][:, :, text], added[:, :, tokens:][:, :, image]
            names = (PAIR, PAIR) if self.config.fusion_layers else (TEXT, IMAGE)
            lengths = (asked.shape[1], looked.shape[1])
            route = Route(((count, tuple(zip(lengths, names, strict=True))),), tokens)
            asking = torch.cat([asked, looked], dim=1)
            read = self.norm(last(before, torch.cat(few, dim=2), route, asking)).split(lengths, dim=1)
            placed = place(read[0], text, tokens), place(read[1], image, length - tokens)
            found.append(torch.cat(placed, dim=1))
        return torch.cat(found)

    def begin(self, stream: Stream, modality: Modality) -> tuple[Tensor, Tensor]:
        """Return the states (B, N, D) of a modality that enter the first block, and their mask (B, N)."""
        row = TEXT_TYPE if modality == TEXT else IMAGE_TYPE
        return stream.states + self.token_types.weight[row], stream.mask

    def index_alone(self, modality: Modality, length: int) -> Tensor:
        """Return the rows of the table (N, N) that N states of a modality alone read."""
        known = self.config.text_positions
        return self._reach(self.places[:known, :known] if modality == TEXT else self.places[known:, known:], length)

    def _pair_index(self, tokens: int, states: int) -> Tensor:
        """Return the index of a pair; region tokens behind the patches have no place: their row is the table's end."""
        known = self.config.text_positions
        (text, across), (back, image) = (part.tensor_split([known], 1) for part in self.places.tensor_split([known]))
        upper = torch.cat([text[:tokens, :tokens], across[:tokens]], 1)
        lower = torch.cat([back[:, :tokens], image], 1)
        return self._reach(torch.cat([upper, lower]), tokens + states)

    @staticmethod
    def _reach(index: Tensor, length: int) -> Tensor:
        """Cut an index to so many states, or extend it to states without a place."""
        missing = max(length - len(index), 0)
        return nn.functional.pad(index[:length, :length], (0, missing, 0, missing), value=-1)

    def biases(self, index: Tensor) -> Tensor | None:
        """Gather the biases of all layers once: (L, H, N, N); zero where a state has no place, which is row -1."""
        if self.position_bias is None:
            return None
        table = torch.cat([self.position_bias, self.position_bias.new_zeros(1, self.position_bias.shape[1])])
        gathered = table[index]  # (N, N, L * H)
        biases: Tensor = gathered.permute(2, 0, 1).unflatten(0, (self.config.layers, self.config.heads))
        return biases

    def _apart(self, tokens: int, states: Tensor) -> Tensor:
        is_text = torch.arange(states.shape[1], device=states.device) < tokens
        return is_text[:, None] == is_text
