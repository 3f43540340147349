"""The scores of all pairs of images and texts: each encoded once, pairs fused in large batches, shared by the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from vle_lightning.distributed import gather_objects
from vle_lightning.errors import UserError
from vle_lightning.models.contrastive import cosines
from vle_lightning.streams import Stream

ON_DEVICE = 4 * 2**30  # bytes of streams that stay on the device; the others wait in the host's memory
BLOCK = 256  # images whose pairs are listed and scored together: with 25,000 texts 0.1 GB of numbers
Score = Callable[[Stream, Stream], Tensor]  # K texts and K images -> (K,)


class EncodedTexts(NamedTuple):
    """T encoded texts, one behind the other without padding."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    owners: tuple[str, ...]  # the id of the image that each describes
    lengths: Tensor  # (T,) int64, in tokens
    states: Tensor  # (sum of lengths, D)
    vectors: Tensor  # (T, C) of the contrastive head; C is 0 without one

    def select(self, rows: Tensor, device: torch.device) -> Stream:
        """Return the texts numbered by ``rows`` (K,), padded to the longest of them: (K, T, D)."""
        lengths = self.lengths[rows]
        inside = torch.arange(int(lengths.max())) < lengths[:, None]
        starts = (self.lengths.cumsum(0) - self.lengths)[rows]
        place = (starts[:, None] + torch.arange(inside.shape[1])).clamp(max=len(self.states) - 1)
        mask = inside.to(device)
        states = self.states[place.to(self.states.device)].to(device)
        return Stream(states.masked_fill(~mask[..., None], 0.0), mask)

    def to(self, device: torch.device | str) -> Self:
        """Move the states."""
        return self._replace(states=self.states.to(device))


class EncodedImages(NamedTuple):
    """I encoded images."""

    ids: tuple[str, ...]
    stream: Stream  # states (I, N, D), mask (I, N)
    vectors: Tensor  # (I, C)


class ScoredSplit(NamedTuple):
    """All images and texts of a split, and the scores of the images that this rank has encoded."""

    image_ids: tuple[str, ...]  # sorted: the order of the set
    texts: EncodedTexts  # in the order of their ids
    own: tuple[str, ...]  # ids of this rank's images
    scores: Tensor  # (len(own), T) float32; -inf where a shortlist left the pair out
    vectors: Tensor  # (len(own), C) of this rank's images; C is 0 without a contrastive head

    @property
    def similarities(self) -> Tensor:
        """The products (len(own), T) of the vectors."""
        return cosines(self.vectors, self.texts.vectors)


class EncodedSplit:
    """What one rank has encoded of a split."""

    def __init__(self) -> None:
        self.texts: list[EncodedTexts] = []
        self.images: list[EncodedImages] = []
        self._bytes = 0

    def add(self, texts: EncodedTexts, images: EncodedImages) -> None:
        """Keep a batch; the texts, which travel, in the host's memory, the images on the device while there is room."""
        stream = Stream(*(part.detach() for part in images.stream))
        self._bytes += stream.states.nbytes
        if self._bytes > ON_DEVICE:
            stream = Stream(*(part.cpu() for part in stream))
        self.images.append(images._replace(stream=stream, vectors=images.vectors.detach().cpu()))
        lengths, states, vectors = (part.detach().cpu() for part in (texts.lengths, texts.states, texts.vectors))
        self.texts.append(texts._replace(lengths=lengths, states=states, vectors=vectors))

    def take(self) -> EncodedSplit:
        """Hand everything over and start anew."""
        taken = EncodedSplit()
        taken.texts, taken.images = self.texts, self.images
        self.texts, self.images, self._bytes = [], [], 0
        return taken


class _Share(NamedTuple):
    """What a rank tells the others."""

    texts: EncodedTexts | None  # None of a rank without images
    image_ids: tuple[str, ...]
    image_vectors: Tensor | None  # (I, C)


def score_split(
    encoded: EncodedSplit, score: Score | None, device: torch.device, pairs_per_batch: int, top_k: int = 0
) -> ScoredSplit:
    """Score this rank's images against the texts of all ranks; all ranks call this together.

    Args:
        encoded: of this rank; nothing on a rank that has seen fillers only.
        score: fuses K pairs; None: the product of two vectors is the score of a pair.
        device: where.
        pairs_per_batch: K, at most.
        top_k: 0 scores all pairs; else see `shortlist`.

    Raises:
        UserError: an image or text id comes twice, a text's image is not there, or a score is NaN; names the ids. All
            ranks raise it.
    """
    own = tuple(name for images in encoded.images for name in images.ids)
    vectors = torch.cat([images.vectors for images in encoded.images]) if encoded.images else None
    shares = gather_objects(_Share(_joined(encoded.texts) if encoded.texts else None, own, vectors))
    texts = _joined([share.texts for share in shares if share.texts is not None])
    names = [name for share in shares for name in share.image_ids]
    order = sorted(range(len(names)), key=names.__getitem__)
    image_ids = tuple(names[place] for place in order)
    _check_distinct("image", image_ids)
    _check_distinct("text", texts.ids)
    wanted = None
    if top_k:
        found = [share.image_vectors for share in shares if share.image_vectors is not None]
        chosen = shortlist(torch.cat(found)[order], texts.vectors, top_k)
        rows = {name: row for row, name in enumerate(image_ids)}
        wanted = chosen[[rows[name] for name in own]]
    held = texts.vectors[:0] if vectors is None else vectors
    if score is None:
        scores = cosines(held, texts.vectors)
    else:
        scores = score_pairs(encoded.images, texts, wanted, score, device, pairs_per_batch)
    _check_numbers(own, texts, scores)
    return ScoredSplit(image_ids, texts, own, scores, held)


def shortlist(images: Tensor, texts: Tensor, top_k: int) -> Tensor:
    """Choose the pairs that are worth a fusion: those of the largest contrastive similarity.

    Each image keeps its first ``top_k`` texts, and each text the same share of the images, rounded up: with five texts
    an image, 5k texts and k images hold as many right ones, and both directions cost the same. So at most two in
    T / top_k of the pairs are fused, and with ``top_k`` = T all of them. A pair that either side keeps is ranked for
    both.

    Args:
        images: (I, C) unit vectors.
        texts: (T, C) unit vectors.
        top_k: texts of each image.

    Returns:
        (I, T) bool.
    """
    similarities = cosines(images, texts)
    most_images, most_texts = similarities.shape
    chosen = torch.zeros(similarities.shape, dtype=torch.bool)
    if not chosen.numel():
        return chosen
    kept = min(top_k, most_texts)
    chosen.scatter_(1, similarities.topk(kept, dim=1).indices, value=True)
    chosen.scatter_(0, similarities.topk(-(-kept * most_images // most_texts), dim=0).indices, value=True)
    return chosen


@torch.no_grad()
def score_pairs(
    images: Sequence[EncodedImages],
    texts: EncodedTexts,
    wanted: Tensor | None,
    score: Score,
    device: torch.device,
    pairs_per_batch: int,
) -> Tensor:
    """Score pairs of I images and T texts.

    Args:
        images: in any number of parts.
        texts: T.
        wanted: (I, T) bool, which pairs; None for all.
        score: fuses K pairs.
        device: where.
        pairs_per_batch: K, at most.

    Returns:
        (I, T) float32 in the host's memory, -inf where no score was wanted.
    """
    texts = texts.to(device) if texts.states.nbytes <= ON_DEVICE else texts
    by_length = texts.lengths.argsort(descending=True, stable=True)  # what needs most memory comes first
    scores = torch.full((sum(len(part.ids) for part in images), len(texts.ids)), -torch.inf)
    start = 0
    for image in _blocks(images, device):
        block = scores[start : start + len(image.mask)]
        chosen = torch.ones_like(block, dtype=torch.bool) if wanted is None else wanted[start : start + len(block)]
        pairs = chosen.T[by_length].nonzero()  # neighbours have texts of about one length, and little padding
        for places, rows in (part.T for part in pairs.split(pairs_per_batch)):
            columns = by_length[places]
            distinct, which = columns.unique_consecutive(return_inverse=True)
            text = texts.select(distinct, device).select(which.to(device))
            block[rows, columns] = score(text, image.select(rows.to(device))).float().cpu()
        start += len(block)
    return scores


def _blocks(parts: Sequence[EncodedImages], device: torch.device) -> Iterator[Stream]:
    """Put the images of neighbouring batches together, and on the device."""
    waiting: list[Stream] = []
    for number, part in enumerate(parts):
        waiting.append(part.stream)
        if number == len(parts) - 1 or sum(len(stream.mask) for stream in waiting) >= BLOCK:
            yield Stream(*(torch.cat([tensor.to(device) for tensor in kind]) for kind in zip(*waiting, strict=True)))
            waiting = []


def _joined(parts: Sequence[EncodedTexts]) -> EncodedTexts:
    """Put texts together, in the order of their ids, so that it does not depend on the ranks."""
    if not parts:
        return EncodedTexts((), (), (), torch.zeros(0, dtype=torch.long), torch.zeros(0, 0), torch.zeros(0, 0))
    ids = [name for part in parts for name in part.ids]
    texts = [text for part in parts for text in part.texts]
    owners = [owner for part in parts for owner in part.owners]
    lengths, states, vectors = (
        torch.cat(kind) for kind in zip(*((part.lengths, part.states, part.vectors) for part in parts), strict=True)
    )
    order = sorted(range(len(ids)), key=ids.__getitem__)
    starts, sizes = lengths.cumsum(0) - lengths, lengths[order]
    tokens = (starts[order] - (sizes.cumsum(0) - sizes)).repeat_interleave(sizes) + torch.arange(len(states))
    return EncodedTexts(
        tuple(ids[place] for place in order),
        tuple(texts[place] for place in order),
        tuple(owners[place] for place in order),
        sizes,
        states[tokens],
        vectors[order],
    )


def _check_distinct(kind: str, names: Sequence[str]) -> None:
    for name, following in zip(names, names[1:], strict=False):  # they are sorted
        if name == following:
            raise UserError(f"{kind} {name!r} comes twice in the set: each must have an id of its own")


def _check_numbers(own: Sequence[str], texts: EncodedTexts, scores: Tensor) -> None:
    """Refuse NaN on all ranks: one that raised alone would leave the others waiting."""
    wrong = scores.isnan().nonzero()
    fault = None
    if len(wrong):
        image, text = wrong[0].tolist()
        fault = (
            f"the score of image {own[image]!r} and text {texts.ids[text]!r} is not a number, and {len(wrong) - 1} "
            "more are not: the weights or these samples are broken"
        )
    faults = [told for told in gather_objects(fault) if told is not None]
    if faults:
        raise UserError(faults[0])
