"""Exact search: what a sort of all products finds, chunk by chunk, ties to the first, in bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from tests.factories import generator
from vle_lightning.errors import UserError
from vle_lightning.metrics.search import search


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("top_k", [1, 5, 300])
def test_the_best_are_those_of_a_sort_of_all_products(chunk: int, top_k: int) -> None:
    queries, gallery = (F.normalize(torch.randn(n, 16, generator=generator(n)), dim=1) for n in (9, 200))
    products = (queries.double() @ gallery.double().T).float()
    order = products.argsort(dim=1, descending=True, stable=True)[:, :top_k]
    found = search(queries, gallery, top_k, chunk)
    assert torch.equal(found.rows, order)
    assert torch.equal(found.scores, products.gather(1, order))


@pytest.mark.parametrize("chunk", [3, 16, 100])
def test_of_equal_rows_the_first_comes_first(chunk: int) -> None:
    distinct = F.normalize(torch.randn(7, 33, generator=generator(0)), dim=1)
    gallery = distinct[torch.arange(60) % 7]
    found = search(distinct, gallery, 8, chunk)
    for row in range(7):
        assert found.rows[row].tolist() == [place for place in range(60) if place % 7 == row][:8]
    zero = search(torch.tensor([[0.0, 1.0]]), torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0]]), 3, chunk)
    assert zero.rows.tolist() == [[0, 1, 2]]  # -0.0 and 0.0 are equal
    assert zero.scores.tolist() == [[0.0, 0.0, -1.0]]


def test_what_cannot_be_searched_is_told() -> None:
    with pytest.raises(UserError, match=r"shape \(2, 3\) cannot be searched for in a gallery of \(4, 5\)"):
        search(torch.zeros(2, 3), torch.zeros(4, 5), 1)
    with pytest.raises(UserError, match="top_k is 0"):
        search(torch.zeros(2, 3), torch.zeros(4, 3), 0)
    with pytest.raises(UserError, match="not a number"):
        search(torch.full((1, 3), torch.nan), torch.zeros(4, 3), 1)


def test_nothing_is_found_in_nothing() -> None:
    assert search(torch.zeros(2, 3), torch.zeros(0, 3), 5).rows.shape == (2, 0)
    assert search(torch.zeros(0, 3), torch.zeros(4, 3), 5).scores.shape == (0, 4)


MILLION = """
import torch
from vle_lightning.metrics.search import search
from vle_lightning.resident import peak_bytes, reset_peak
queries, gallery = torch.randn(600, 256), torch.randn(1_000_000, 256)
search(queries[:2], gallery[:10], 2)  # what a first product loads
reset_peak()
before = peak_bytes()
assert before > gallery.nbytes
search(queries, gallery, 100)
print((peak_bytes() - before) / 2**30)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_million_rows_take_little_memory_beside_themselves() -> None:
    done = subprocess.run([sys.executable, "-c", MILLION], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 0.2  # GiB; all products at once would take 2.2
