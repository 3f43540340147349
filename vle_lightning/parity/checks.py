"""One comparison of ours with the reference: a name, the largest error, its bound, a verdict."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Bound(NamedTuple):
    """How far a number may be off: ``absolute`` plus ``relative`` times the reference's size."""

    absolute: float
    relative: float = 0.0


# the fixtures' README, section Tolerance
EXACT = Bound(0.0)
OUTPUT = Bound(2e-5, 1e-5)
LARGE_INTERMEDIATE = Bound(5e-5, 1e-5)  # where a number of the tensor exceeds LARGE
LARGE = 10.0
LOSS = Bound(1e-5)
GRADIENT_NORM = Bound(1e-6, 1e-3)
POSITIONS = Bound(1e-6)
PIXELS = Bound(1e-6)


class Check(NamedTuple):
    """One line of the report."""

    tensor: str
    error: float | None  # the largest absolute error; None where there is nothing to compare
    bound: float | None
    ok: bool
    note: str = ""

    def __str__(self) -> str:
        """Return name, largest error, bound and verdict, then what is to say about them."""
        verdict = "FAIL" if not self.ok else "-" if self.error is None else "ok"
        line = f"{self.tensor} {number(self.error)} {number(self.bound)} {verdict}"
        return line + (f" ({self.note})" if self.note else "")


def number(value: float | None) -> str:
    """Write a number of the report."""
    return "-" if value is None else format(value, ".1e")


def failure(tensor: str, note: str) -> Check:
    """Say that something cannot be compared although it must be."""
    return Check(tensor, None, None, False, note)


def no_counterpart(tensor: str, reason: str) -> Check:
    """Say that the authors' value is none that we have; it counts neither as passed nor as failed."""
    return Check(tensor, None, None, True, f"no counterpart here: {reason}")


def compare(tensor: str, ours: Tensor | None, reference: Tensor, bound: Bound, rows: Tensor | None = None) -> Check:
    """Compare number by number.

    Args:
        tensor: its name in the report.
        ours: of the reference's shape; None where nothing was produced.
        reference: the authors' values.
        bound: each number's error must lie within.
        rows: bool, of the leading dimensions: what is compared; all by default.

    Returns:
        The largest error and the bound at that number; where one is over its bound, the worst of these.
    """
    if ours is None:
        return failure(tensor, "missing: nothing was produced here")
    if ours.shape != reference.shape:
        return failure(tensor, f"shape {tuple(ours.shape)} instead of {tuple(reference.shape)}")
    note = ""
    if rows is not None and not rows.all():
        ours, reference, note = ours[rows], reference[rows], "real tokens only"
    ours, reference = ours.detach().double().flatten(), reference.double().flatten()
    finite = reference.isfinite()
    if not finite.all():
        if ours.isfinite()[~finite].any():
            return failure(
                tensor, f"{int(ours.isfinite()[~finite].sum())} numbers are finite where the reference is not"
            )
        note = f"{int((~finite).sum())} numbers are not finite, as in the reference; the others are compared"
    ours, reference = ours[finite], reference[finite]
    if not ours.isfinite().all():
        return failure(tensor, f"{int((~ours.isfinite()).sum())} numbers are not finite where the reference is")
    if not len(ours):
        return Check(tensor, 0.0, bound.absolute, True, note or "no numbers")
    errors = (ours - reference).abs()
    bounds = bound.absolute + bound.relative * reference.abs()
    excess = errors - bounds
    worst = int(excess.argmax() if (excess > 0).any() else errors.argmax())
    return Check(tensor, float(errors[worst]), float(bounds[worst]), bool((excess <= 0).all()), note)


def compare_loss(tensor: str, ours: Tensor | None, reference: float) -> Check:
    """Compare a loss (); the bound is never finer than two steps of float32 at its size."""
    steps = 2 * math.ulp(1.0) * 2**29 * abs(reference)  # float32 has 29 bits fewer than float64
    wanted = torch.tensor(reference, dtype=torch.float64)
    return compare(tensor, ours, wanted, Bound(max(LOSS.absolute, steps)))


def equal(tensor: str, ours: object, reference: object) -> Check:
    """Compare texts, ids and lists of them, exactly; the error is how many entries differ."""
    first, second = list(leaves(ours)), list(leaves(reference))
    if ours == reference:
        return Check(tensor, 0.0, 0.0, True)
    if [path for path, _ in first] != [path for path, _ in second]:
        return failure(tensor, f"another structure: {shorten(ours)} instead of {shorten(reference)}")
    wrong = [(path, a, b) for (path, a), (_, b) in zip(first, second, strict=True) if a != b]
    path, mine, theirs = wrong[0]
    note = f"{len(wrong)} of {len(first)} differ, first at {path or 'the value'}: {mine!r} instead of {theirs!r}"
    return Check(tensor, float(len(wrong)), 0.0, False, note)


def leaves(value: object, path: str = "") -> list[tuple[str, object]]:
    """List what nested dictionaries and lists hold, each with its path."""
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in leaves(part, f"{path}.{key}")]
    if isinstance(value, list | tuple):
        return [leaf for index, part in enumerate(value) for leaf in leaves(part, f"{path}[{index}]")]
    return [(path, value)]


def shorten(value: object) -> str:
    """Write a value in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
