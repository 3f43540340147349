"""Image classification and segmentation on the command line: fit, predict, export, use; two ranks are one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vle_lightning.cli import main
from vle_lightning.inference import pipeline

ROOT = Path(__file__).parents[1]
TINY = (
    *("--model.architecture", "tiny", "--model.init", "null", "--data.workers", "0", "--trainer.accelerator", "cpu"),
    *("--trainer.max_steps", "2", "--validate_every", "2", "--trainer.enable_progress_bar", "false"),
    *("--data.batch_size", "2", "--data.global_batch_size", "4"),
)


def experiment(task: str) -> str:
    return str(ROOT / "experiments" / task / "toy.yaml")


@pytest.mark.slow
def test_a_classifier_is_trained_exported_and_asked(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    name = ("--run_name", "classes")
    assert main(["fit", "--config", experiment("classification"), *TINY, *name]) == 0
    folder = Path("checkpoints/classes")
    assert (folder / "pictures" / "classes.png").is_file()
    rows = json.loads((folder / "predictions.json").read_text())
    assert len(rows) == 16
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["val/acc@1"] == pytest.approx(sum(row["prediction"] == row["target"] for row in rows) / 16)
    assert metrics["floor/acc@1"] == pytest.approx(1 / 24)
    assert main(["export", str(folder), "--to", "exported"]) == 0
    image = Image.new("RGB", (48, 48), "red")
    found = [pipeline("classify", source)(image=image, top_k=3) for source in (folder, "exported")]
    assert found[0] == found[1]
    assert len(found[0]) == 3
    assert {row["class"] for row in found[0]} <= set(json.loads(Path("data/toy/classes.json").read_text()))
    again = ["fit", "--config", experiment("classification"), *TINY, "--run_name", "again"]
    assert main([*again, "--model.init", "exported", "--trainer.max_steps", "1", "--validate_every", "1"]) == 0


@pytest.mark.slow
def test_a_segmenter_on_two_ranks_is_that_of_one(workplace: Path) -> None:
    found = []
    for ranks in ("1", "2"):
        command = [sys.executable, "-m", "vle_lightning", "fit", "--config", experiment("segmentation"), *TINY]
        command += ["--run_name", f"masks-{ranks}", "--trainer.devices", ranks, "--trainer.strategy", "ddp"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=workplace, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        folder = workplace / "checkpoints" / f"masks-{ranks}"
        assert (folder / "pictures" / "masks.png").is_file()
        rows = json.loads((folder / "predictions.json").read_text())
        found.append((json.loads((folder / "metrics.json").read_text()), sorted(row["id"] for row in rows)))
    (one, ids), (two, others) = found
    assert two == pytest.approx(one, rel=1e-4, abs=1e-5, nan_ok=True)
    assert ids == others
    assert len(ids) == 8
    assert one["val/miou"] > 0
