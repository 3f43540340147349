"""The scheduler's signals: a flag is set, the ranks agree on it after a step, save, and end together."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from vle_lightning.arrivals import Arrival, send
from vle_lightning.callbacks.checkpoints import Checkpoints
from vle_lightning.callbacks.steps import ends_step
from vle_lightning.distributed import any_rank, has_met
from vle_lightning.errors import Interrupted

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)  # before the time limit (sbatch --signal), and at preemption


class Interruption(Callback):
    """Ends a fit at the next optimiser step after a signal, with the step saved.

    Nothing happens inside of the signal's handler but a flag: a save there would meet a step half done, and ranks that
    wait for each other elsewhere. Lightning's own handlers do so, and are replaced.
    """

    def __init__(self, checkpoints: Checkpoints | None) -> None:
        """Watch over one run.

        Args:
            checkpoints: what saves; None where nothing is to be saved.
        """
        self._checkpoints = checkpoints
        self._received: int | None = None
        self._told: str | None = None  # once all ranks have agreed
        self._asked: Arrival | None = None  # what GPUs agreed on after the step before

    def listen(self) -> None:
        """Take the signals from now on; other threads than the main one cannot."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Take the signals back from Lightning, which has registered its handlers by now; its own flag is ours too."""
        self.listen()
        trainer._signal_connector.received_sigterm = False

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Agree at the end of a step, and save."""
        if self._told is not None or not ends_step(trainer, batch_idx):
            return
        if not self._agreed(trainer.strategy.root_device):
            return
        if self._checkpoints is None:
            self._told = "nothing is saved (trainer.enable_checkpointing is false)"
            return
        step, saved = trainer.global_step, self._checkpoints.save(trainer)
        kept = self._checkpoints.store.newest()
        self._told = f"step {step} is saved" if saved else f"step {step} could not be saved, {kept or 'nothing'} is"

    def _agreed(self, device: torch.device) -> bool:
        """Say whether any rank was told to end; from GPUs the answer is read a step later, so that none waits."""
        told = self._received is not None
        if not has_met():
            return told
        answer: Arrival | None = send(any_rank(torch.full((), told, device=device)))
        if device.type == "cuda":
            answer, self._asked = self._asked, answer
        return answer is not None and bool(answer.read())

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: object, batch_idx: int) -> None:
        """End once the step is logged, and validated where that was due.

        Raises:
            Interrupted: on all ranks.
        """
        if self._told is not None:
            raise Interrupted(f"told to stop; {self._told}. To go on: the same command with --ckpt_path auto")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received = number
