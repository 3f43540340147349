"""What loading processes need of a machine: cores, shared memory, open files; and what to say where it is lacking.

A worker hands a batch over in /dev/shm, with a file descriptor for each tensor. Where either runs out, torch's worker
says so to nobody and the training process waits; so both are checked before the start, and a worker that cannot send
a batch ends, with an exit code that says why.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import sys
import traceback
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path

import lightning as L

from datamodules.cache import StoreError

SHARED = Path("/dev/shm")  # noqa: S108 (where torch puts what it shares)
PER_CORE, FEW_WORKERS = 4, 16  # workers that wait for a network may outnumber the cores; so many are always allowed
SPARE_FILES = 64  # pipes, logs, libraries
TENSORS = 24  # of a batch, at most
FILES_PER_TENSOR = 2  # the tensor's own and the one under way
NO_MEMORY, NO_FILES, CANNOT_SEND = 81, 82, 83  # exit codes of a worker that could not send a batch
FULL = re.compile(r"No space left|shm|shared memory|[Ss]hared file|errno: 28|\(28\)")
WRAPPED = re.compile(r"Caught \w+ in .* worker process \d+\.\n", re.DOTALL)


class LoaderError(StoreError):
    """The loading processes cannot go on; the message says why and what to do."""


def check_workers(workers: int) -> None:
    """Refuse more workers than a machine can use; raises ValueError that names its cores."""
    cores = len(os.sched_getaffinity(0))
    most = max(FEW_WORKERS, PER_CORE * cores)
    if workers > most:
        raise ValueError(f"data.workers is {workers}, but this machine has {cores} core(s): give at most {most}")


def check_limits(trainer: L.Trainer, batches: int, per_step: int) -> None:
    """Refuse limits of the trainer under which an epoch is not made of whole steps of the stream.

    Args:
        trainer: of the run.
        batches: micro-batches of this rank in an epoch.
        per_step: micro-batches of this rank in a step.

    Raises:
        ValueError: names the option and what to give.
    """
    given = vars(trainer)  # Lightning declares none of its debugging options
    if given["fast_dev_run"]:
        return
    if given["overfit_batches"]:
        raise ValueError(
            f"trainer.overfit_batches is {given['overfit_batches']}, but the stream goes on behind the last step and "
            "repeats no batch: to overfit, convert a few images (python -m datamodules.prepare ... --limit 8) and "
            "train many epochs of them"
        )
    told = trainer.limit_train_batches
    limit = min(told, batches) if isinstance(told, int) else int(batches * told)
    if limit % per_step:
        below = limit // per_step * per_step
        raise ValueError(
            f"trainer.limit_train_batches is {told}, {limit} micro-batches of a device, but a step has {per_step} of "
            f"them: an epoch would end within a step; give {f'{below} or ' if below else ''}{below + per_step}"
        )


def check_shared_memory(batch_bytes: int, batches: int, workers: int, ranks: int) -> None:
    """Compare what the batches in flight need with the free part of /dev/shm.

    Args:
        batch_bytes: of one batch.
        batches: in flight, of one rank.
        workers: of one rank.
        ranks: of this machine: they share it.

    Raises:
        LoaderError: they need more.
    """
    free, needed = free_shared(), batch_bytes * batches * ranks
    gigabytes = -(-needed * 5 // (4 * 10**9))  # a quarter more
    if workers and free is not None and needed > free:
        raise LoaderError(
            f"data.workers: {batches * ranks} batches of {batch_bytes / 1e6:.1f} MB on their way from the workers need "
            f"{needed / 1e6:.0f} MB of {SHARED}, which has {free / 1e6:.0f} MB free: enlarge it (docker run "
            f"--shm-size {gigabytes}g), lower data.workers or data.batch_size, or set data.workers: 0"
        )


def free_shared() -> int | None:
    """Return the free bytes of /dev/shm, or None where there is none."""
    try:
        status = os.statvfs(SHARED)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def check_open_files(workers: int, batches: int, open_shards: int) -> None:
    """Make sure that a process may open as many files as it will, raising its soft limit where it may.

    Args:
        workers: loading processes; 0 loads in this one.
        batches: of a worker in flight.
        open_shards: at most, in all folders of a loader.

    Raises:
        LoaderError: the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    tensors = batches * TENSORS * FILES_PER_TENSOR if workers else 0
    needed = open_files() + open_shards + tensors + SPARE_FILES
    if needed <= soft:
        return
    if hard == resource.RLIM_INFINITY or needed <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return
    raise LoaderError(
        f"data.workers: a loading process needs up to {needed} open files, but the limit is {hard}: raise it "
        f"(ulimit -n {max(4096, needed)}; in Slurm, the limits of the submitting shell), or lower data.shuffle_shards"
    )


def open_files() -> int:
    """Return how many files this process has open."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def end_where_nothing_is_sent() -> None:
    """Let this worker end where it cannot send a batch: torch's would go on, and the batch be waited for in vain."""
    setattr(Queue, "_on_queue_feeder_error", staticmethod(_end))  # noqa: B010 (typeshed does not know it)


def _end(error: BaseException, sent: object) -> None:
    """End this process with the code that tells why (a private hook of multiprocessing's queues)."""
    del sent
    if (code := exit_code(error)) == CANNOT_SEND:  # the others are told by the training process
        traceback.print_exception(error, file=sys.stderr)
        sys.stderr.flush()
    os._exit(code)


def exit_code(error: BaseException) -> int:
    """Return the exit code of a worker that could not send a batch for this reason."""
    number = getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE) or "Too many open files" in str(error):
        return NO_FILES
    if number == errno.ENOSPC or FULL.search(str(error)):
        return NO_MEMORY
    return CANNOT_SEND


def explain(error: Exception, workers: Iterable[BaseProcess]) -> LoaderError | None:
    """Return one sentence for an error of loading; None where it is no fault of data or machine.

    Args:
        error: what the torch loader raised.
        workers: its processes.
    """
    for process in workers:
        if not process.is_alive() and process.exitcode and (told := _death(process.pid, process.exitcode)):
            return LoaderError(told)
    if isinstance(error, StoreError):
        told = str(error)
        if WRAPPED.match(told):  # torch puts the worker's traceback before it
            told = told.rstrip().rpartition("\n")[2].partition(": ")[2]
        return LoaderError(told)
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM):
        return LoaderError(
            f"data.workers: the system starts no more processes ({error.strerror}): lower data.workers, or raise the "
            "limits of processes (ulimit -u) and memory"
        )
    if exit_code(error) == NO_FILES:
        return LoaderError(_causes()[NO_FILES])
    return None


def _death(pid: int | None, code: int) -> str | None:
    if code == -signal.SIGKILL:
        return (
            f"data.workers: the loading process {pid} was killed (SIGKILL), as the system's memory killer does where "
            "memory runs out: lower data.workers or data.batch_size, or ask for more memory (Slurm: --mem)"
        )
    if code == -signal.SIGBUS:
        code = NO_MEMORY
    told = _causes().get(code)
    if told is None:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        told = f"data.workers: a loading process ended by itself ({name}); its last words are above"
    return f"{told} (process {pid})"


def _causes() -> dict[int, str]:
    free = free_shared() or 0
    return {
        NO_MEMORY: f"data.workers: {SHARED} is full ({free / 1e6:.1f} MB free), through which workers hand over their "
        "batches: enlarge it (docker run --shm-size 8g), or set data.workers: 0",
        NO_FILES: f"data.workers: a process may open no more than {resource.getrlimit(resource.RLIMIT_NOFILE)[0]} "
        "files, too few for the batches that workers hand over: raise the limit (ulimit -n 4096), or set "
        "data.workers: 0",
        CANNOT_SEND: "data.workers: a loading process could not hand over a batch; its last words are above",
    }
