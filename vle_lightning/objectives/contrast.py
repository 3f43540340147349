"""Contrast over a whole optimiser step: every pair of all ranks and micro-batches against every other.

A step's vectors are computed first, without gradient, then the loss of all of them and its gradient with respect to
their similarities; each micro-batch then makes its own vectors again and hands that gradient on (GradCache, arXiv
2101.06983). Where a step is one micro-batch a rank, the vectors are made once. Rows are sorted by keys of their own: so
neither the number of ranks nor that of micro-batches changes loss, gradient or drawn negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, distributed
from torch.nn import functional as F

from vle_lightning.batch import PretrainBatch, RetrievalBatch
from vle_lightning.distributed import has_met
from vle_lightning.models.contrastive import contrastive_loss
from vle_lightning.streams import Stream

Pairs = PretrainBatch | RetrievalBatch  # B images with a text each
Mining = Literal["global", "local"]  # hard negatives from the whole step, or from the own micro-batch (ALBEF)
LAST = torch.iinfo(torch.int64).max  # the key of rows that are not valid


class Vectors(NamedTuple):
    """Unit vectors of pairs, for each of K ways to compare."""

    texts: Tensor  # (K, B, C)
    images: Tensor  # (K, B, C)


class Rows(NamedTuple):
    """All N rows of a step, sorted by their keys; those that are not valid, and padding, come last."""

    vectors: Vectors  # (K, N, C)
    valid: Tensor  # (N,) bool
    same: Tensor  # (N, N) bool: of one image or of one text, so no negatives of each other
    number: Tensor  # (N,) int64: of the micro-batch
    place: Tensor  # (N,) int64: rank * (A * P) + micro-batch * P + row, of A micro-batches of P rows
    own: Tensor  # (A, P) int64: where the rows of this rank's micro-batches stand here
    ranks: int


class Partners(NamedTuple):
    """Whom each of N rows meets in the fusion; -1 where nobody can be drawn."""

    texts: Tensor  # (N,) int64: the row whose text lies beside this image
    images: Tensor  # (N,) int64: the row whose image lies beside this text


class Contrast(NamedTuple):
    """What a step's rows say of each other."""

    rows: Rows
    loss: Tensor  # () mean over the ways
    pulls: Tensor  # (K, N, N) gradient of the loss with respect to the similarities, images x texts
    scores: Tensor  # (N, N) similarities of the first way
    micro_batches: int  # of the step, over all ranks


class Negatives(NamedTuple):
    """Hard negatives of B pairs, encoded before fusion."""

    texts: Stream  # (B, T, D): beside image i
    images: Stream  # (B, N, D): beside text i
    has_text: Tensor  # (B,) bool
    has_image: Tensor  # (B,) bool


class Content(NamedTuple):
    """Texts and pictures of R rows."""

    input_ids: Tensor  # (R, T) int64
    attention_mask: Tensor  # (R, T) bool
    pixel_values: Tensor  # (R, 3, H, W)


def gather(vectors: Sequence[Vectors], batches: Sequence[Pairs], alone: bool = False) -> Rows:
    """Put the rows of a step together; all ranks call this together.

    Args:
        vectors: of this rank's A micro-batches, in their order, without gradient.
        batches: these micro-batches; all ranks have as many.
        alone: these are all, whatever other ranks have (evaluation).
    """
    planned = max(max(batch.planned, len(batch)) for batch in batches)
    found = torch.stack([F.pad(torch.cat(pair), (0, 0, 0, planned - pair.texts.shape[1])) for pair in vectors])
    facts = torch.stack([_facts(batch, planned) for batch in batches])
    ranks, rank = (1, 0) if alone or not has_met() else (distributed.get_world_size(), distributed.get_rank())
    if ranks > 1:
        found, facts = _from_all(found, ranks), _from_all(facts, ranks)
    facts = facts.flatten(0, 1)  # (W * A * P, 5)
    order = facts[:, 0].sort(stable=True).indices
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    keys, both = facts[order], found.transpose(1, 2).flatten(0, 1)[order].transpose(0, 1)
    image, text = keys[:, 1], keys[:, 2]
    count = len(batches) * planned
    return Rows(
        Vectors(*both.chunk(2)),
        keys[:, 3].bool(),
        (image[:, None] == image) | (text[:, None] == text),
        keys[:, 4],
        order,
        place[rank * count : (rank + 1) * count].view(len(batches), planned),
        ranks,
    )


def draw_partners(scores: Tensor, rows: Rows, mining: Mining, seed: int) -> Partners:
    """Draw a hard text for each image and a hard image for each text, from the softmax of the similarities.

    Gumbel noise on what is allowed and the largest of it is such a draw, and cannot underflow (arXiv 1903.06059).

    Args:
        scores: (N, N) similarities, images x texts, scaled by the temperature.
        rows: of these.
        mining: local: only rows of the own micro-batch are drawn.
        seed: of the draw, one for the whole step on all ranks.
    """
    allowed = rows.valid & ~rows.same
    if mining == "local":
        allowed &= rows.number[:, None] == rows.number
    random = torch.Generator(scores.device).manual_seed(seed)
    noise = torch.empty(2, *scores.shape, device=scores.device).exponential_(generator=random).log_()
    found = []
    for side, drawn in zip((scores, scores.T), noise, strict=True):
        logits = side.float().nan_to_num() - drawn  # log of an exponential variable: Gumbel noise, its sign turned
        best = logits.masked_fill(~allowed, -torch.inf).argmax(1)
        found.append(best.where(allowed.any(1), -1))
    return Partners(*found)


def exchange(rows: Rows, wanted: Tensor, contents: Sequence[Pairs]) -> Content:
    """Return texts and pictures of rows, from whichever rank has them; all ranks call this together.

    Only what is wanted travels. How much that is, the host has to know: it waits for the device once where there are
    several ranks.

    Args:
        rows: of the step.
        wanted: (2, N) int64: whose text, and whose image, each row wants; -1 where none: its own is returned.
        contents: this rank's micro-batches.

    Returns:
        The wanted of this rank's A * P rows, in their order.
    """
    planned, ranks = rows.own.shape[1], rows.ranks
    share = rows.own.numel()
    own = [_content(batch, planned) for batch in contents]
    longest = max(part.input_ids.shape[1] for part in own)
    place = torch.arange(len(rows.valid), device=wanted.device)
    by_place = torch.empty_like(rows.place).index_copy_(0, rows.place, place)  # place -> row
    sources = rows.place[wanted.where(wanted >= 0, place)][:, by_place].view(2, ranks, share)  # by place of the asker
    if ranks > 1:
        longest_anywhere = torch.tensor(longest, device=wanted.device)
        distributed.all_reduce(longest_anywhere, distributed.ReduceOp.MAX)
        longest = int(longest_anywhere)
    parts = [_padded(part, longest) for part in own]
    texts = torch.cat([torch.stack([part.input_ids, part.attention_mask.long()], 1) for part in parts])
    images = torch.cat([part.pixel_values for part in parts])
    if ranks == 1:
        ids, images = texts[sources[0, 0]], images[sources[1, 0]]
    else:
        ids, images = (_travel(part, of, share) for part, of in zip((texts, images), sources, strict=True))
    return Content(ids[:, 0], ids[:, 1].bool(), images)


def _travel(values: Tensor, sources: Tensor, share: int) -> Tensor:
    """Fetch rows (share, ...) from their ranks; ``sources`` (W, share) are the places that each rank asks for."""
    rank, ranks = distributed.get_rank(), len(sources)
    owners = sources // share
    order = owners.sort(dim=1, stable=True).indices  # an asker's wishes, by the rank that has them
    counts = torch.stack([(owners == owner).sum(1) for owner in range(ranks)], 1).tolist()  # asker x owner
    wished = sources.gather(1, order)
    sent = torch.cat([row[row // share == rank] % share for row in wished])
    output = values.new_empty(share, *values.shape[1:])
    give = [counts[asker][rank] for asker in range(ranks)]
    distributed.all_to_all_single(output, values[sent].contiguous(), counts[rank], give)
    return torch.empty_like(output).index_copy_(0, order[rank], output)


def judge(similarities: Sequence[Tensor], rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the mean loss () over the ways, and its gradient (K, N, N) with respect to the similarities.

    Where nothing is learned the gradient is zero.
    """
    learns = torch.is_grad_enabled()
    leaves = [part.detach().requires_grad_(learns) for part in similarities]
    loss = torch.stack([contrastive_loss(leaf, rows.same, rows.valid) for leaf in leaves]).mean()
    pulls = torch.autograd.grad(loss, leaves) if learns else [torch.zeros_like(leaf) for leaf in leaves]
    return loss.detach(), torch.stack(list(pulls))


def _facts(batch: Pairs, planned: int) -> Tensor:
    """Return key, image, text, validity and micro-batch (P, 5) of the rows, padded to as many as were planned."""
    numbers = batch.keys.new_full((len(batch),), batch.number)
    key = batch.keys[:, 0].masked_fill(~batch.valid, LAST)
    facts = torch.stack([key, batch.keys[:, 1], batch.keys[:, 2], batch.valid.long(), numbers], 1)
    padding = facts.new_tensor([LAST, -1, -1, 0, batch.number]).expand(planned - len(batch), -1)
    return torch.cat([facts, padding])


def _content(batch: Pairs, planned: int) -> Content:
    """Return texts and pictures of the rows, with copies of the first behind them, as many as were planned."""
    rows = torch.arange(planned, device=batch.valid.device)
    rows = rows.where(rows < len(batch), 0)
    return Content(batch.input_ids[rows], batch.attention_mask[rows], batch.pixel_values[rows])


def _padded(content: Content, tokens: int) -> Content:
    missing = tokens - content.input_ids.shape[1]
    ids, mask = (F.pad(part, (0, missing)) for part in (content.input_ids, content.attention_mask))
    return content._replace(input_ids=ids, attention_mask=mask)


def _from_all(own: Tensor, ranks: int) -> Tensor:
    """Return what all ranks have (A, ...), one behind the other: (W * A, ...)."""
    parts = own.new_empty(ranks * len(own), *own.shape[1:])
    distributed.all_gather_into_tensor(parts, own.contiguous())
    return parts
