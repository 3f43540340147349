"""A rank that hangs is named, and the run ended, so that a scheduler may start it again."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from vle_lightning.batch import Batch
from vle_lightning.callbacks.heartbeat import Phase, Place, Sign, Signs, describe, hanging_ranks, read_signs
from vle_lightning.distributed import gather_objects

EX_SOFTWARE = 70  # sysexits.h
DISTRIBUTED, OPERATORS = os.path.join("torch", "distributed", ""), os.path.join("torch", "_ops.py")
STAGES = {"fit": Phase.LOADING, "validate": Phase.VALIDATING, "test": Phase.TESTING, "predict": Phase.PREDICTING}


class Watchdog(Callback):
    """Watches from a thread of each rank that the main threads of all ranks advance.

    Every few seconds the thread writes ``ranks/<rank>.json``. When its own main thread has passed no hook for the
    timeout it reads the files of all ranks, names those that hang on stderr and in ``hang.txt``, shows where its own
    threads are, and ends the process with exit code 70; the other ranks follow as soon as they see ``hang.txt``. A
    phase in which no hook is passed (the first step with its compilation, the end of a validation, a save) has to be
    shorter than the timeout, and a collective's own timeout has to be longer.

    It stands before the other callbacks, so that what they do belongs to the phase that it has noted.
    """

    def __init__(self, folder: Path, timeout: float) -> None:
        """Watch over one run.

        Args:
            folder: the run folder.
            timeout: seconds without progress after which a rank hangs.
        """
        self.folder, self.timeout = folder, timeout
        self.report = folder / "hang.txt"
        self._interval = min(timeout / 10, 30.0)  # seconds between two signs
        self._place, self._since = Place(), time.monotonic()
        self._session, self._rank, self._local_rank, self._world = "", 0, 0, 1
        self._beat = 0
        self._idle = Phase.LOADING  # between two micro-batches
        self._main = threading.get_ident()
        self._thread: threading.Thread | None = None
        self._over, self._ending = threading.Event(), threading.Lock()

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Note that this rank is at something else, such as saving, until the block ends."""
        before = self._place.phase
        self._move(self._place._replace(phase=phase))
        try:
            yield
        finally:
            self._move(self._place._replace(phase=before))

    def setup(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Agree on a name for this start of the run, and begin."""
        self._session = gather_objects(uuid4().hex)[0]
        self._rank, self._local_rank, self._world = trainer.global_rank, trainer.local_rank, trainer.world_size
        self._main, self._idle = threading.get_ident(), STAGES[stage]
        self._move(Place())
        self._over.clear()
        self._tell()  # at once: a rank that stops early is to be known by host and pid
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def teardown(self, trainer: L.Trainer, task: L.LightningModule, stage: str) -> None:
        """Stop watching."""
        self._stop(Phase.ENDED)

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        """Stop watching; an error that another rank's end has caused is that rank's hang."""
        self._stop(Phase.FAILED)

    def _watch(self) -> None:
        earlier: Signs = {}
        beat_at = time.monotonic()
        while not self._over.wait(self._interval):
            now = time.monotonic()
            if now - beat_at > self.timeout / 2:  # this whole process was stopped, and goes on
                self._since = now
            beat_at, silent = now, now - self._since
            try:
                self._tell()
                if self._is_told():
                    self._end(self.report.read_text(encoding="utf-8"))
                if silent < self.timeout / 2:
                    earlier = {}
                elif not earlier:
                    earlier = read_signs(self._ranks, self._session, self._world)
                if silent >= self.timeout:
                    self._judge(earlier)
            except OSError as error:
                self._complain(error)

    def _judge(self, earlier: Signs) -> None:
        now = read_signs(self._ranks, self._session, self._world)
        if hanging := hanging_ranks(earlier, now, self.timeout):
            self._end(describe(earlier, now, hanging, self.timeout))

    def _tell(self, phase: Phase | None = None) -> None:
        self._beat += 1
        place, silent = self._place, time.monotonic() - self._since
        sign = Sign(
            session=self._session,
            rank=self._rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            phase=phase or (Phase.WAITING if waits_for_others(self._main) else place.phase),
            step=place.step,
            micro_batch=place.micro_batch,
            sample_ids=place.sample_ids,
            advances=place.advances,
            silent=silent,
            beat=self._beat,
            time=time.time(),
        )
        try:
            sign.write(self._ranks)
        except OSError as error:  # a full disk is no reason to stop watching
            self._complain(error)

    def _is_told(self) -> bool:
        """Did a rank of this session find a hang?"""
        return self.report.is_file() and self._session in self.report.read_text(encoding="utf-8")

    def _end(self, report: str) -> None:
        """Report and end this process, whatever its main thread is at."""
        with self._ending:  # never given back: who comes second waits for the end
            _print(f"{report.rstrip()}\nrank {self._rank} ends with exit code {EX_SOFTWARE}; it is at:")
            faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
            try:
                self._publish(report)
            except OSError as error:
                self._complain(error)
            # others are to see the report before this rank's end breaks what they wait in; a process that started
            # others goes first, for its exit code is that of all
            time.sleep(self._interval * (1.5 if self._local_rank == 0 else 4))
            os._exit(EX_SOFTWARE)

    def _publish(self, report: str) -> None:
        if not self._is_told():
            unfinished = self.report.with_suffix(f".{self._rank}")
            unfinished.write_text(f"{report.rstrip()}\nsession {self._session}\n", encoding="utf-8")
            unfinished.replace(self.report)

    def _stop(self, last: Phase) -> None:
        if self._thread is None:
            return
        with self._ending:
            told = self._is_told()
        if told:
            self._end(self.report.read_text(encoding="utf-8"))
        self._over.set()
        self._thread.join()
        self._thread = None
        self._tell(last)

    def _complain(self, error: OSError) -> None:
        _print(f"watchdog of rank {self._rank}: {error}")

    @property
    def _ranks(self) -> Path:
        return self.folder / "ranks"

    def _move(self, place: Place) -> None:
        self._place, self._since = place, time.monotonic()

    def _advance(self, phase: Phase) -> None:
        self._move(self._place._replace(phase=phase, advances=self._place.advances + 1))

    def _take(self, phase: Phase, batch: Batch) -> None:
        place = Place(phase, batch.step, batch.number, batch.sample_ids, self._place.advances + 1)
        self._move(place)

    def _finish(self) -> None:
        self._move(self._place._replace(phase=self._idle, sample_ids=(), advances=self._place.advances + 1))

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Advance."""
        self._advance(Phase.LOADING)

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Batch, batch_idx: int) -> None:
        """Advance to a micro-batch."""
        self._take(Phase.COMPUTING, batch)

    def on_before_backward(self, trainer: L.Trainer, task: L.LightningModule, loss: Tensor) -> None:
        """Advance."""
        self._advance(Phase.COMPUTING)

    def on_before_optimizer_step(self, trainer: L.Trainer, task: L.LightningModule, optimizer: Optimizer) -> None:
        """Advance: the host asks the device for what the ranks have agreed on, and waits."""
        self._advance(Phase.WAITING)

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Advance past a micro-batch."""
        self._finish()

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Advance."""
        self._advance(Phase.VALIDATING)

    def on_validation_batch_start(
        self, trainer: L.Trainer, task: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Advance to a micro-batch."""
        self._take(Phase.VALIDATING, batch)

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Advance."""
        self._finish()

    def on_test_batch_start(
        self, trainer: L.Trainer, task: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Advance to a micro-batch."""
        self._take(Phase.TESTING, batch)

    def on_predict_batch_start(
        self, trainer: L.Trainer, task: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Advance to a micro-batch."""
        self._take(Phase.PREDICTING, batch)


def waits_for_others(thread: int) -> bool:
    """Is a thread in a collective, such as an all-reduce, a barrier, or FSDP2's wait for weights?

    Its innermost Python frame is in torch's distributed package then, but for the call of an operator.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None and frame.f_code.co_filename.endswith(OPERATORS):
        frame = frame.f_back
    return frame is not None and DISTRIBUTED in frame.f_code.co_filename


def _print(text: str) -> None:
    """Write to the real stderr: a progress bar may have taken the other one, and the main thread may hold it."""
    print(text, file=sys.__stderr__, flush=True)
