"""How fast a run is, what it waits for, how much of the hardware it uses, and how large its gradients are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback

from vle_lightning.batch import Batch
from vle_lightning.callbacks.health import Health
from vle_lightning.callbacks.steps import is_logged
from vle_lightning.flops import FlopRecorder
from vle_lightning.tasks.base import VisionLanguageTask

GIB, TERA = 2**30, 1e12
DENSE_BF16 = {  # FLOP/s by what a device's name holds, the longer name first; Lightning's table lacks the first two,
    # and its figures for the third are those with sparsity, of a pair of boards
    "H200 NVL": 835.5e12,  # NVIDIA H200 data sheet: 1,671 TFLOPS with sparsity
    "H200": 989.5e12,  # the same sheet, SXM: 1,979 TFLOPS with sparsity
    "H100 NVL": 835.5e12,  # NVIDIA H100 data sheet: 1,671 TFLOPS with sparsity
}
DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}


class Throughput(Callback):
    """Logs what the run does with its time and its devices, at every step that is logged at all.

    - samples/s of all devices and of one, and how many samples of each source were read;
    - the share of the time from the end of a micro-batch to the arrival of the next: what the loaders let it wait;
    - model FLOPs utilisation: the training FLOPs of the model (`vle_lightning.flops`) over those that the devices could
      do; where a device's peak is not known, TFLOP/s per device alone;
    - on CUDA the peaks of this rank's allocated and reserved memory, in GiB;
    - the gradient's norm before clipping.

    Speeds and peaks are of the time since they were logged last. FLOPs are counted once, on this rank's first
    micro-batch, and taken to grow with the samples: texts of later ones may be padded to other lengths.
    """

    def __init__(self, samples_by_source: Callable[[int], Mapping[str, int]], health: Health | None = None) -> None:
        """Take what others count.

        Args:
            samples_by_source: tells the samples of each source in the first so many steps of the run.
            health: knows the norm of the latest gradient; stands before this callback.
        """
        self._samples_by_source, self._health = samples_by_source, health
        self.samples_per_second: float | None = None  # of all devices, as logged last
        self._began = self._idle_since = 0.0
        self._waited = 0.0  # seconds
        self._samples = 0
        self._recorder: FlopRecorder | None = None
        self._flops: float | None = None  # of a sample, forward and backward
        self._peak: float | None = None  # FLOP/s of a device

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start the clock, and look at the device."""
        if isinstance(task, VisionLanguageTask):
            self._recorder = FlopRecorder(task)
            self._recorder.start()
        if trainer.strategy.root_device.type == "cuda":
            self._peak = peak_flops(trainer.strategy.root_device, str(trainer.precision))
        self._restart()

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Start the clock again: validation is not training."""
        self._restart()

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Batch, batch_idx: int) -> None:
        """The batch is here: the wait is over."""
        self._waited += time.perf_counter() - self._idle_since

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: torch.Tensor | Mapping[str, object] | None,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count, and log."""
        self._samples += len(batch)
        self._idle_since = now = time.perf_counter()
        if is_logged(trainer, batch_idx):
            seconds = max(now - self._began, 1e-9)
            rate = self._samples * trainer.world_size / seconds
            self.samples_per_second = rate
            values = {
                "speed/samples_per_second": rate,
                "speed/samples_per_second_per_device": rate / trainer.world_size,
                "speed/data_wait_share": self._waited / seconds,
                **self._memory(trainer.strategy.root_device),
                **self._use(rate / trainer.world_size),
            }
            if self._health is not None and self._health.gradient_norm is not None:
                values["speed/gradient_norm"] = self._health.gradient_norm
            seen = self._samples_by_source(trainer.global_step)
            values |= {f"samples/{source}": float(count) for source, count in seen.items()}
            task.log("samples/s", rate, prog_bar=True, logger=False)
            if "speed/mfu" in values:
                task.log("mfu", values["speed/mfu"], prog_bar=True, logger=False)
            log(trainer, values)
            self._restart()
        if self._recorder is not None:  # after the clock: counting takes seconds for a large model
            self._count_flops(trainer, self._recorder, len(batch))
            self._recorder = None

    def _count_flops(self, trainer: L.Trainer, recorder: FlopRecorder, samples: int) -> None:
        by_part = {part: flops / samples for part, flops in recorder.flops().items()}
        self._flops = sum(by_part.values())
        log(trainer, {f"flops/{part}_per_sample": flops for part, flops in by_part.items()})
        self._restart()

    def _use(self, rate: float) -> dict[str, float]:
        """Say what a device does with ``rate`` samples/s."""
        if self._flops is None:
            return {}
        done = self._flops * rate
        values = {"speed/tflops_per_device": done / TERA}
        return values if self._peak is None else {**values, "speed/mfu": done / self._peak}

    @staticmethod
    def _memory(device: torch.device) -> dict[str, float]:
        if device.type != "cuda":
            return {}
        peaks = {
            "speed/memory_allocated_gib": torch.cuda.max_memory_allocated(device) / GIB,
            "speed/memory_reserved_gib": torch.cuda.max_memory_reserved(device) / GIB,
        }
        torch.cuda.reset_peak_memory_stats(device)
        return peaks

    def _restart(self) -> None:
        self._began = self._idle_since = time.perf_counter()
        self._waited, self._samples = 0.0, 0


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Return the FLOP/s that a data sheet promises for dense matrix products; None for a device that is not known.

    Args:
        device: a CUDA device.
        precision: as Lightning names it, such as ``bf16-mixed``.
    """
    dtype = DTYPES.get(precision.split("-")[0])
    if dtype is None:
        return None
    name = torch.cuda.get_device_name(device)
    known = next((flops for part, flops in DENSE_BF16.items() if part in name), None)
    if known is not None and dtype in (torch.bfloat16, torch.float16):
        return known
    available = get_available_flops(device, dtype)
    return None if available is None else float(available)


def log(trainer: L.Trainer, values: dict[str, float]) -> None:
    """Hand values of this step to the loggers at once: Lightning's own way would ask the device for each."""
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step - 1)  # Lightning counts from 0
