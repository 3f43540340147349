"""Bounds and verdicts of single comparisons."""

from __future__ import annotations

import pytest
import torch

from vle_lightning.parity.checks import Bound, compare, compare_loss, equal


def test_an_error_is_judged_by_the_bound_at_its_number() -> None:
    reference = torch.tensor([0.0, 100.0])
    check = compare("x", reference + torch.tensor([0.9e-3, 0.05]), reference, Bound(1e-3, 1e-3))
    assert check.ok
    assert (check.error, check.bound) == pytest.approx((0.05, 0.101), rel=1e-4)
    check = compare("x", reference + torch.tensor([3e-3, 0.05]), reference, Bound(1e-3, 1e-3))
    assert not check.ok
    assert (check.error, check.bound) == pytest.approx((3e-3, 1e-3), rel=1e-4)


def test_numbers_that_are_not_finite_stand_at_the_same_places() -> None:
    reference = torch.tensor([1.0, torch.nan])
    assert compare("x", torch.tensor([1.0, float("nan")]), reference, Bound(0.0)).ok
    assert not compare("x", torch.tensor([1.0, 7.0]), reference, Bound(0.0)).ok
    assert not compare("x", torch.tensor([torch.inf, torch.nan]), reference, Bound(1.0)).ok


def test_padded_rows_are_left_out_on_request() -> None:
    mask = torch.tensor([[True, False]])
    ours, reference = torch.tensor([[[1.0], [5.0]]]), torch.tensor([[[1.0], [6.0]]])
    assert compare("x", ours, reference, Bound(0.0), mask).ok
    assert not compare("x", ours, reference, Bound(0.0)).ok


def test_the_bound_of_a_loss_is_never_finer_than_two_steps_of_float32() -> None:
    assert compare_loss("loss", torch.tensor(1.0), 1.0).bound == 1e-5
    assert compare_loss("loss", torch.tensor(2.0**10), 2.0**10).bound == 2 * 2.0**-23 * 2**10


def test_lists_are_compared_entry_by_entry() -> None:
    assert equal("x", {"a": [1, ["b"]]}, {"a": [1, ["b"]]}).ok
    check = equal("x", {"a": [1, ["b"], 3]}, {"a": [1, ["c"], 4]})
    assert (check.ok, check.error) == (False, 2)
    assert "first at .a[1][0]: 'b' instead of 'c'" in check.note
    assert "another structure" in equal("x", [[1], []], [[], [1]]).note
