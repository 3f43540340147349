"""What a pre-training step encodes and fuses: each distinct view once, all pairs of a kind in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from vle_lightning.batch import PretrainBatch
from vle_lightning.encoders.base import PatchMask
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.regions import box_patches
from vle_lightning.objectives.contrast import Negatives
from vle_lightning.streams import Fused, FusedView, ImageView, Pairing, Part, Reading, Stream, TextView, stack

NO_VECTORS: Mapping[ImageView, Tensor] = {}
Pair = tuple[Stream, Stream]  # text and image


class Encoded(NamedTuple):
    """The views of a micro-batch before fusion, B streams each, and the images that were drawn beside it."""

    texts: Mapping[TextView, Stream]
    images: Mapping[ImageView, Stream]
    drawn: Stream | None = None  # D images that were drawn for ITM, where there are any
    negatives: Negatives | None = None  # where pairs are hard


def fuse_views(
    model: Backbone,
    batch: PretrainBatch,
    views: Sequence[FusedView],
    vectors: Mapping[ImageView, Tensor] = NO_VECTORS,
) -> list[Fused]:
    """Encode and fuse each distinct view once; see `encode_views` and `fuse_encoded`."""
    return fuse_encoded(model, batch, encode_views(model, batch, views, vectors), views)


def encode_views(
    model: Backbone,
    batch: PretrainBatch,
    views: Iterable[FusedView],
    vectors: Mapping[ImageView, Tensor] = NO_VECTORS,
    also: Iterable[ImageView] = (),
) -> Encoded:
    """Encode each distinct view of texts and images, all texts in one call and all images in one.

    Args:
        model: the backbone.
        batch: B pairs, H hidden boxes, P patches.
        views: what objectives ask for.
        vectors: (hidden_width,) by view of the image, what stands for its hidden patches; their pixels are black in a
            view with hidden patches that has none.
        also: views of the image that are read without fusion.
    """
    views = list(views)
    texts = list(dict.fromkeys(view.text for view in views))
    images = list(dict.fromkeys([*(view.image for view in views), *also]))
    drawing = any(view.pairing is Pairing.HALF_SHIFTED for view in views)
    return Encoded(_encode_texts(model, batch, texts), *_encode_images(model, batch, images, vectors, drawing))


def fuse_encoded(
    model: Backbone,
    batch: PretrainBatch,
    encoded: Encoded,
    views: Sequence[FusedView],
    readings: Sequence[Reading] | None = None,
) -> list[Fused]:
    """Fuse each distinct view once.

    Views of one form of the image are fused in one call; those with hidden boxes have region tokens, which would be
    padding for the others. Where the text is masked, ``text`` holds the states that restore it.

    Args:
        model: the backbone.
        batch: B pairs.
        encoded: their views.
        views: what objectives ask for.
        readings: which states of each of ``views`` are read; all by default.

    Returns:
        One Fused for each of ``views``, in their order, of B pairs or of 3 B hard ones; ``image`` has H region tokens
        after the patches where boxes are hidden.
    """
    fused: dict[FusedView, Fused] = {}
    for kind, image in encoded.images.items():
        alike = [view for view in dict.fromkeys(views) if view.image is kind]
        if not alike:
            continue
        pairs = [_paired(encoded, encoded.texts[view.text], image, batch, view.pairing) for view in alike]
        texts, images = (stack(streams) for streams in zip(*pairs, strict=True))
        sizes = [len(text.mask) for text, _ in pairs]
        read: list[Part] | None = None
        if readings is not None:
            read = [Part(rows, _joined(view, views, readings)) for view, rows in zip(alike, sizes, strict=True)]
        by_view = (tensor.split(sizes) for tensor in model.fuse(texts, images, parts=read))
        for view, (text, shown), own in zip(alike, pairs, zip(*by_view, strict=True), strict=True):
            whole = Fused(*own)
            whole = whole._replace(text=whole.text[:, : text.mask.shape[1]])
            if view.text is TextView.MASKED:
                whole = whole._replace(text=model.restore(whole, text, shown, batch.input_ids))
            fused[view] = whole
    return [fused[view] for view in views]


def _joined(view: FusedView, views: Sequence[FusedView], readings: Sequence[Reading]) -> Reading:
    """Return what all that ask for a view read of it."""
    wanted = [reading for other, reading in zip(views, readings, strict=True) if other == view]
    return reduce(Reading.join, wanted)


def _encode_texts(model: Backbone, batch: PretrainBatch, kinds: list[TextView]) -> dict[TextView, Stream]:
    ids = {TextView.CLEAN: batch.input_ids, TextView.MASKED: batch.masked_input_ids}
    stream = model.encode_text(torch.cat([ids[kind] for kind in kinds]), batch.attention_mask.repeat(len(kinds), 1))
    return dict(zip(kinds, _unstack(stream, len(batch)), strict=True))


def _encode_images(
    model: Backbone,
    batch: PretrainBatch,
    kinds: list[ImageView],
    vectors: Mapping[ImageView, Tensor],
    drawing: bool,
) -> tuple[dict[ImageView, Stream], Stream | None]:
    """Encode the views of B images, and behind them D drawn images if they are read."""
    drawn = len(batch.drawn_rows) if drawing else 0
    pixels = batch.pixel_values.repeat(len(kinds), 1, 1, 1)
    if drawn:
        pixels = torch.cat([pixels, batch.drawn_pixel_values])
    hides = kinds != [ImageView.CLEAN] and model.blind != "image"
    mask = _patch_mask(model, batch, kinds, vectors, drawn) if hides else None
    *streams, extra = _unstack(model.encode_image(pixels, mask), [*[len(batch)] * len(kinds), drawn])
    images = dict(zip(kinds, streams, strict=True))
    if hides and ImageView.MASKED in images:
        masked, boxes = images[ImageView.MASKED], box_patches(batch.hidden_boxes, model.layout.grid(pixels))
        images[ImageView.MASKED] = masked.append(model.pool_regions(masked, boxes, batch.hidden_classes >= 0))
    return images, extra if drawn else None


def _patch_mask(
    model: Backbone, batch: PretrainBatch, kinds: list[ImageView], vectors: Mapping[ImageView, Tensor], drawn: int
) -> PatchMask:
    """Say what is hidden in the views of B images, and nothing in D drawn ones behind them."""
    patches = box_patches(batch.hidden_boxes, model.layout.grid(batch.pixel_values))  # (B, H, P)
    none = torch.zeros_like(patches[:, :0]).any(1)
    hidden = {
        ImageView.CLEAN: none,
        ImageView.MASKED: (patches & (batch.hidden_classes >= 0)[..., None]).any(1),
        ImageView.PATCHES: batch.hidden_patches,
    }
    whole = none[:1].expand(drawn, -1)
    return PatchMask(torch.cat([*(hidden[kind] for kind in kinds), whole]), _vector(kinds, vectors, len(batch), drawn))


def _vector(kinds: list[ImageView], vectors: Mapping[ImageView, Tensor], rows: int, drawn: int) -> Tensor | None:
    """Return what stands for hidden patches: (D,), or (rows of all kinds, 1, D) where kinds have their own vectors."""
    given = [vectors.get(kind) for kind in kinds]
    present = [vector for vector in given if vector is not None]
    if len(present) <= 1:
        return present[0] if present else None
    filled = [present[0] if vector is None else vector for vector in given]
    parts = [vector.expand(rows, 1, -1) for vector in filled]
    return torch.cat([*parts, present[0].expand(drawn, 1, -1)])


def _paired(encoded: Encoded, text: Stream, image: Stream, batch: PretrainBatch, pairing: Pairing) -> Pair:
    if pairing is Pairing.TRUE:
        return text, image
    if pairing is Pairing.HARD:
        assert encoded.negatives is not None
        return stack([text, encoded.negatives.texts, text]), stack([image, image, encoded.negatives.images])
    if encoded.drawn is None:
        return text.select(batch.partner), image
    return text, image.replace(batch.drawn_rows, encoded.drawn)


def _unstack(stream: Stream, rows: int | list[int]) -> list[Stream]:
    return [Stream(*part) for part in zip(*(tensor.split(rows) for tensor in stream), strict=True)]
