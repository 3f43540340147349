"""Whether a processor multiplies bf16 by itself, and what a run in bf16 says where it does not."""

from __future__ import annotations

import warnings
from argparse import Namespace
from pathlib import Path

import pytest

from vle_lightning import options
from vle_lightning.options import warn_of_emulated_bf16
from vle_lightning.processor import has_bf16_units


@pytest.mark.parametrize(
    ("told", "has"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 avx512_vp2intersect\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx512f amx_bf16 amx_tile\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("processor\t: 0\nisa\t\t: rv64imafdc\n", None),
    ],
)
def test_units_are_read_from_what_the_kernel_tells(told: str, has: bool | None, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(told)
    assert has_bf16_units(tmp_path / "cpuinfo") is has


def test_nothing_is_known_without_a_kernel_that_tells(tmp_path: Path) -> None:
    assert has_bf16_units(tmp_path / "cpuinfo") is None


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
def test_bf16_on_a_cpu_without_units_is_one_sentence(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "has_bf16_units", lambda: False)
    with pytest.warns(UserWarning, match=f"trainer.precision is {precision}, but this CPU has no bf16 units"):
        warn_of_emulated_bf16(Namespace(accelerator="cpu", precision=precision))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("accelerator", "precision", "has"),
    [
        ("cpu", "32-true", False),
        ("cpu", None, False),
        ("gpu", "bf16-mixed", False),
        ("cpu", "bf16-mixed", True),
        ("cpu", "bf16-mixed", None),
    ],
)
def test_nothing_is_said_elsewhere(
    accelerator: str, precision: str | None, has: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(options, "has_bf16_units", lambda: has)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_of_emulated_bf16(Namespace(accelerator=accelerator, precision=precision))  # type: ignore[arg-type]
    assert not told
