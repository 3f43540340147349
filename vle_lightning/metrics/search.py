"""Exact nearest neighbours by the product of vectors, chunk by chunk, so that a gallery may be as large as the memory.

Beside the gallery a search takes ``CHUNK`` rows in double precision, and ``BLOCK`` x ``CHUNK`` products a few times
over: with vectors of 768 numbers less than 0.2 GiB, however large the gallery is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vle_lightning.errors import UserError

CHUNK = 4096  # rows of the gallery that are compared at a time
BLOCK = 512  # queries that are compared at a time
LOWEST = torch.iinfo(torch.int64).min
MOST_ROWS = 2**32 - 1  # a row's number takes 32 bits of a key


class Best(NamedTuple):
    """The K best rows of a gallery for each of Q queries."""

    scores: Tensor  # (Q, K) float32, falling
    rows: Tensor  # (Q, K) int64


def search(queries: Tensor, gallery: Tensor, top_k: int, chunk: int = CHUNK) -> Best:
    """Find the rows of a gallery that have the largest product with each query; of equal ones the first comes first.

    Products are computed in double precision and rounded to single: so equal rows have equal scores wherever they stand
    in a chunk, which a matrix product in single precision does not promise.

    Args:
        queries: (Q, C) floats.
        gallery: (N, C) floats, on the same device; it may lie in a file that is mapped to memory.
        top_k: K, at most; N where there are fewer rows.
        chunk: rows that are compared at a time.

    Raises:
        UserError: the sizes do not fit, or a query's product is not a number.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1] or len(gallery) > MOST_ROWS:
        raise UserError(
            f"queries of shape {tuple(queries.shape)} cannot be searched for in a gallery of {tuple(gallery.shape)}: "
            f"both must be rows of equal width, and the gallery at most {MOST_ROWS:,} of them"
        )
    if top_k < 1 or chunk < 1:
        raise UserError(f"top_k is {top_k} and chunk {chunk}; both must be at least 1")
    kept = min(top_k, len(gallery))
    best = [block.new_full((len(block), 0), LOWEST, dtype=torch.int64) for block in queries.split(BLOCK)]
    for start in range(0, len(gallery), chunk):
        rows = gallery[start : start + chunk].double()
        for number, block in enumerate(queries.split(BLOCK)):
            keys = torch.cat([best[number], _keys((block.double() @ rows.T).float(), start)], dim=1)
            best[number] = keys.topk(min(kept, keys.shape[1]), dim=1).values
    return _read(torch.cat(best)) if best else Best(queries.new_zeros(0, kept), queries.new_zeros(0, kept).long())


def _keys(scores: Tensor, start: int) -> Tensor:
    """Pack scores (Q, R) and the rows' numbers into int64, so that the larger is better and no two are equal.

    The bits of a float, read as a whole number, are in the order of the floats, but of negative ones in reverse.
    """
    if bool(scores.isnan().any()):
        raise UserError("a product of two vectors is not a number: they cannot be ranked")
    bits = (scores + 0.0).view(torch.int32).long()  # -0.0 + 0.0 is 0.0
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    numbers = torch.arange(start, start + scores.shape[1], device=scores.device)
    return (ordered << 32) + (MOST_ROWS - numbers)


def _read(keys: Tensor) -> Best:
    ordered = (keys >> 32).int()
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    return Best(bits.view(torch.float32), MOST_ROWS - (keys & 0xFFFFFFFF))
