"""What a GPU check found, on the page of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vle_lightning.results.command import run_results
from vle_lightning.results.hardware import read_hardware

STEP = {
    "batch": 32,
    "step_seconds": 0.0812,
    "samples_per_second": 394.1,
    "tflops": 210.04,
    "utilisation": 0.2123,
    "utilisation_of_measured": 0.2741,
    "peak_allocated_gib": 18.26,
    "largest_batch": 256,
    "largest_batch_is_proven": True,
    "at_largest_batch/batch": 256,
    "at_largest_batch/step_seconds": 0.5,
    "at_largest_batch/samples_per_second": 512.0,
}
RECORD: dict[str, Any] = {
    "hardware": "NVIDIA H200",
    "device": "cuda",
    "memory_gib": 139.8,
    "driver": "580.159.04",
    "date": "2026-11-21",
    "commit": "0123456789abcdef",
    "modified": False,
    "versions": {"python": "3.12.3", "torch": "2.11.0", "numpy": "2.4"},
    "parts": {
        "vle-base": {"status": "done", "figures": STEP},
        "fsdp": {"status": "done", "figures": {"losses": [9.0, 8.0], "largest_relative_difference": 2e-6}},
        "deepspeed_2": {"status": "not run", "figures": {}, "reason": "deepspeed is\nnot | in /opt/me/packages/x"},
        "gpu tests": {"status": "done", "figures": {"summary": "6 passed"}},
    },
}


def page(folder: Path) -> str:
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "published.json").write_text("[]")
    out = folder / "README.md"
    options = {"run_root": "runs", "out": "README.md", "published": "published.json", "hardware": "hardware"}
    assert run_results([text for name, file in options.items() for text in (f"--{name}", str(folder / file))]) == 0
    return out.read_text()


def test_a_check_has_a_section_with_the_name_of_the_hardware(tmp_path: Path) -> None:
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "h200.json").write_text(json.dumps(RECORD))
    section = page(tmp_path).split("## Hardware: NVIDIA H200\n")[1]
    assert "NVIDIA H200 with 139.8 GiB; driver 580.159.04; python 3.12.3, torch 2.11.0; commit 0123456" in section
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| vle-base | done | 32 | 0.081 | 394.1 | 210.0 | 21.2% | 27.4% | 18.3 | 256 |  |",
        "| vle-base, largest batch | done | 256 | 0.500 | 512.0 |  |  |  |  | 256 |  |",
        "| fsdp | done |  |  |  |  |  |  |  |  | losses within 2.0e-06 of ddp's |",
        "| deepspeed_2 | not run |  |  |  |  |  |  |  |  | deepspeed is not \\| in .../x |",
        "| gpu tests | done |  |  |  |  |  |  |  |  | 6 passed |",
    ]


def test_phases_and_the_wait_for_photos_are_shown(tmp_path: Path) -> None:
    phases = {"forward/text": 0.04, "forward/mlm": 0.002, "forward/itm": 0.001, "forward": 0.09, "backward": 0.1}
    figures = {f"phase/{name}": seconds for name, seconds in phases.items()} | {"launches": 10771.0}
    parts = {
        "rates": {"status": "done", "figures": {"matmul_tflops": 766.4, "copy_gb_per_second": 2947.0}},
        "vle-base": {"status": "done", "figures": STEP | figures},
        "vle-base largest batch": {"status": "done", "figures": {"best_batch": 128}},
        "photos": {"status": "done", "figures": {"data_wait_share": 0.0132, "samples_per_second": 300.0}},
    }
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "h200.json").write_text(json.dumps({**RECORD, "parts": parts}))
    section = page(tmp_path).split("## Hardware: NVIDIA H200\n")[1]
    assert "766 TFLOP/s on a large product; copies 2,947 GB/s" in section
    assert "| best batch 128 |" in section
    assert "| 1.3% of the time waiting for data |" in section
    assert "| vle-base | 40.0 |  |  | 3.0 | 90.0 | 100.0 |  |  | 10,771 |  |" in section


def test_without_a_check_there_is_no_section(tmp_path: Path) -> None:
    assert "Hardware" not in page(tmp_path)


def test_a_broken_file_or_one_of_a_cpu_is_named_and_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "hardware"
    folder.mkdir()
    (folder / "a.json").write_text("{")
    (folder / "b.json").write_text(json.dumps({**RECORD, "device": "cpu"}))
    (folder / "c.json").write_text(json.dumps({**RECORD, "parts": {"x": {"status": "fine", "figures": {}}}}))
    found, problems = read_hardware(folder)
    assert found == []
    assert [problem.split(" is left out: ")[0] for problem in problems] == [f"hardware/{n}.json" for n in "abc"]
    assert "it is not of a GPU" in problems[1]
    assert "'x' has no status" in problems[2]
    assert "hardware/b.json is left out" in page(tmp_path)
