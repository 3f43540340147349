"""Photos from shards into the step: the command line trains on JPEGs, and says how long it waits for them."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from vle_lightning.gpu_check.report import Report
from vle_lightning.gpu_check.runs import EXPERIMENT, ROOT, read_scalars, run

MEASURED = {  # what the run logs, and its name in the report
    "speed/data_wait_share": "data_wait_share",
    "speed/samples_per_second": "samples_per_second",
    "speed/tflops_per_device": "tflops",
}


@dataclass(frozen=True)
class PhotoSettings:
    """A short run on drawn photos of 500 x 375 pixels (`datamodules.bench.photos`)."""

    device: str
    architecture: str
    batch_size: int
    steps: int = 60
    logged_every: int = 20  # steps; the last stretch counts, when workers and kernels are warm
    count: int = 256  # photos, each eight times in the shard
    image_size: int = 224
    patch_size: int = 16
    precision: str = "bf16-mixed"
    workers: int | None = None  # as many as this process may use cores


def check_photos(settings: PhotoSettings, shared: Path, report: Report) -> None:
    """Write the shards, train on them, and report the share of the last stretch that was spent waiting for data.

    Args:
        settings: of the run.
        shared: a folder that outlives this part.
        report: takes the speed and the share.

    Raises:
        ProcessError: writing or training failed.
    """
    workers = settings.workers or len(os.sched_getaffinity(0))
    report.add(settings=asdict(settings) | {"workers": workers})
    place = shared / "photos"
    run([sys.executable, "-m", "datamodules.bench.write", "--out", str(place), "--count", str(settings.count)], ROOT)
    with tempfile.TemporaryDirectory() as folder:
        train_on(place, settings, workers, Path(folder))
        for tag, name in MEASURED.items():
            if found := read_scalars(Path(folder) / "photos", tag):
                report.add(**{name: found[-1]})


def train_on(place: Path, settings: PhotoSettings, workers: int, runs: Path) -> None:
    """Train on the shards in a process of its own, crops and augmentation as in an experiment on photos."""
    options = {
        "run_name": "photos",
        "run_root": runs,
        "model.architecture": settings.architecture,
        "model.optim.lr": 1e-5,
        "data.root": place / "shards",
        "data.tokenizer": place / "tokenizer",
        "data.sources": "{photos: 1.0}",
        "data.val_sources": "[photos]",
        "data.classes": "null",
        "data.image_size": settings.image_size,
        "data.patch_size": settings.patch_size,
        "data.crop_scale": "[0.5, 1.0]",
        "data.text_multiple": 8,
        "data.batch_size": settings.batch_size,
        "data.global_batch_size": settings.batch_size,
        "data.limit_val": settings.batch_size,
        "data.workers": workers,
        "trainer.accelerator": "cpu" if settings.device == "cpu" else "gpu",
        "trainer.devices": 1,
        "trainer.precision": settings.precision,
        "trainer.max_steps": settings.steps,
        "validate_every": settings.steps,
        "trainer.log_every_n_steps": settings.logged_every,
        "trainer.enable_progress_bar": "false",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    run([sys.executable, "-m", "vle_lightning", "fit", "--config", str(EXPERIMENT), *arguments], ROOT)
