"""Loaders of micro-batches: worker processes, and the place where a run resumes.

They own a torch DataLoader instead of being one: Lightning replaces a DataLoader's sampler in prediction,
in distributed runs and for ``overfit_batches``, and ours is already right for each of them.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Generic, TypeVar

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules.cache import StoreError
from datamodules.sampler import EvalSampler, MicroBatchSampler
from datamodules.starvation import end_where_nothing_is_sent, explain
from vle_lightning.batch import Batch

PREFETCHED = 4  # micro-batches per worker
BatchT_co = TypeVar("BatchT_co", bound=Batch, covariant=True)


class BatchLoader(Generic[BatchT_co]):
    """Iterates over the batches that a sampler asks for; has a length and may be iterated again."""

    def __init__(
        self,
        dataset: Dataset[BatchT_co],
        sampler: EvalSampler | MicroBatchSampler,
        workers: int,
        *,
        persistent: bool = False,
    ) -> None:
        """Prepare the workers; they start with the first iteration.

        Args:
            dataset: turns a MicroBatch into a batch.
            sampler: this rank's micro-batches.
            workers: processes; 0 loads in this one.
            persistent: keep the workers from one epoch to the next.
        """
        self._sampler = sampler
        self._loader: DataLoader[BatchT_co] = DataLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=persistent and workers > 0,
            prefetch_factor=PREFETCHED if workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
        )

    def __len__(self) -> int:
        """Return the number of batches of a whole pass."""
        return len(self._sampler)

    def __iter__(self) -> Iterator[BatchT_co]:
        """Yield the batches in the sampler's order.

        Raises:
            LoaderError: a loading process died or is starved, or no sample of a batch can be used.
        """
        iterator: Iterator[BatchT_co] | None = None
        while True:
            try:
                iterator = iterator or self._start()
                batch = next(iterator)
            except StopIteration:
                return
            except (StoreError, RuntimeError, OSError) as error:
                if (told := explain(error, processes_of(iterator or self._loader._iterator))) is None:
                    raise
                raise told from error
            yield batch

    def _start(self) -> Iterator[BatchT_co]:
        """Start an iteration, without torch's handler of SIGCHLD.

        That would raise at any place of the training loop when a worker dies; the next batch that is asked for does
        so in a place where it can be told.
        """
        if threading.current_thread() is not threading.main_thread():
            return iter(self._loader)
        before = signal.getsignal(signal.SIGCHLD)
        try:
            return iter(self._loader)
        finally:
            if before is not None:
                signal.signal(signal.SIGCHLD, before)


class MicroBatchLoader(BatchLoader[BatchT_co]):
    """The training loader. It counts what it has handed out; epochs follow from that, not from the trainer.

    The count is of optimiser steps, so that one rank's checkpoint is right on any rank, of any number.
    """

    _sampler: MicroBatchSampler  # under a public name Lightning would look into it

    def __init__(
        self,
        dataset: Dataset[BatchT_co],
        sampler: MicroBatchSampler,
        workers: int,
        is_over: Callable[[], bool] = lambda: False,
        looks_ahead: bool = False,
    ) -> None:
        """Take the options of `BatchLoader`; the workers stay for the whole run.

        Args:
            dataset: turns a MicroBatch into a batch.
            sampler: this rank's micro-batches.
            workers: processes; 0 loads in this one.
            is_over: says at the start of an iteration that the trainer's epoch had all its batches already.
            looks_ahead: the first micro-batch of a step brings the others of this rank along (`Batch.ahead`).
        """
        super().__init__(dataset, sampler, workers, persistent=True)
        self._is_over, self._group = is_over, sampler.per_step if looks_ahead else 1
        self._handed_out = 0  # micro-batches of this rank since the start of the run

    @property
    def step(self) -> int:
        """Return the optimiser steps of which every micro-batch was handed out, over the whole run."""
        return self._handed_out // self._sampler.per_step

    def __iter__(self) -> Iterator[BatchT_co]:
        """Yield the micro-batches behind the finished steps, up to the end of the epoch."""
        if self._is_over():
            return
        self._sampler.start_step = self.step
        self._handed_out = self.step * self._sampler.per_step
        batches = super().__iter__()
        while group := list(islice(batches, self._group)):
            group[0] = replace(group[0], ahead=tuple(group[1:]))
            for batch in group:
                self._handed_out += 1
                yield batch

    def close(self) -> None:
        """End the workers; another iteration starts new ones.

        Left to the garbage collector, each of them may be waited for in vain for seconds.
        """
        iterator = self._loader._iterator  # torch has no public name for it; Lightning does the same
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()
        self._loader._iterator = None

    def state_dict(self) -> dict[str, int]:
        """Return the finished optimiser steps."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind ``state["step"]`` optimiser steps, from the next iteration on."""
        self._handed_out = state["step"] * self._sampler.per_step


def processes_of(iterator: object) -> Sequence[BaseProcess]:
    """Return the workers of a torch loader's iterator, for which torch has no public name."""
    workers: Sequence[BaseProcess] = getattr(iterator, "_workers", ())
    return workers


def start_worker(worker: int) -> None:
    """Keep a worker to one thread, leave what it inherited alone, and let it end where it cannot send a batch.

    Collecting another loader's iterator that lay unused at the fork would raise in its destructor.
    """
    del worker
    gc.freeze()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    end_where_nothing_is_sent()


def epoch_is_over(trainer: L.Trainer | None) -> bool:
    """Say whether Lightning resumed in an epoch that was finished, as it does without validation.

    It would take one batch more, and step on it.
    """
    if trainer is None:
        return False
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready >= trainer.num_training_batches
