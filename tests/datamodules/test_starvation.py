"""Loading on a machine that lacks cores, shared memory or open files, or whose memory killer takes a worker."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import lightning as L
import pytest
from torch.utils.data import Dataset

from datamodules import starvation
from datamodules.loader import BatchLoader, processes_of
from datamodules.sampler import EvalSampler
from datamodules.starvation import (
    CANNOT_SEND,
    NO_FILES,
    NO_MEMORY,
    LoaderError,
    check_limits,
    check_open_files,
    check_shared_memory,
    check_workers,
    exit_code,
)
from tests.datamodules.shard_factory import make_record, picture, write_shards
from tests.datamodules.test_base import Stop, fit, make
from vle_lightning.batch import Batch

STARVED = """
import sys
from pathlib import Path
from tests.datamodules.test_base import make
from datamodules import base
from datamodules.cache import StoreError
if "unchecked" in sys.argv:
    base.check_shared_memory = base.check_open_files = lambda *_: None
module = make(Path(sys.argv[1]), Path(sys.argv[2]), workers=2, batch_size=8, image_size=192)
if "files" in sys.argv:
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
try:
    print("batches", len(list(module.train_dataloader())))
except StoreError as error:
    print("sentence", error)
"""


def test_more_workers_than_the_machine_can_use_are_refused(shards: Path, tokenizer_folder: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(ValueError, match=rf"data\.workers is 1000000, but this machine has {cores} core\(s\): give at"):
        make(shards, tokenizer_folder, workers=1_000_000)
    check_workers(16)


def test_too_little_shared_memory_is_told_before_the_start(
    shards: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starvation, "free_shared", lambda: 64_000_000)  # Docker's default
    with pytest.raises(
        LoaderError, match=r"9 batches of 56\.6 MB .* 510 MB .* 64 MB free: .*--shm-size 1g.*workers: 0"
    ):
        check_shared_memory(32 * 3 * 384 * 384 * 4, 9, workers=2, ranks=1)
    with pytest.raises(LoaderError, match=r"data\.workers: 10 batches .* which has 64 MB free"):
        make(shards, tokenizer_folder, workers=2, image_size=768, batch_size=8).train_dataloader()
    make(shards, tokenizer_folder, workers=0, image_size=768, batch_size=8).train_dataloader()
    make(shards, tokenizer_folder, workers=2).train_dataloader()


def test_too_few_open_files_are_told_before_the_start(
    shards: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (32, 32))
    with pytest.raises(
        LoaderError, match=r"needs up to \d+ open files, but the limit is 32: raise it \(ulimit -n 4096"
    ):
        make(shards, tokenizer_folder, workers=2).train_dataloader()
    assert not raised
    monkeypatch.setattr(resource, "getrlimit", lambda _: (32, 4096))  # the soft limit is ours to raise
    check_open_files(2, 4, 32)
    assert len(raised) == 1
    assert 32 < raised[0][0] < raised[0][1] == 4096


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(24, "Too many open files"), NO_FILES),
        (OSError(28, "No space left on device"), NO_MEMORY),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left (28)"), NO_MEMORY),
        (RuntimeError("unable to open shared memory object </torch_1>: Too many open files (24)"), NO_FILES),
        (TypeError("cannot pickle"), CANNOT_SEND),
    ],
)
def test_a_worker_says_by_its_exit_code_why_it_cannot_send(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_a_killed_worker_is_named_where_the_next_batch_is_asked_for(shards: Path, tokenizer_folder: Path) -> None:
    loader = make(shards, tokenizer_folder, workers=2, sources={"texts": 9.0}).train_dataloader()
    batches = iter(loader)
    next(batches)
    victim = processes_of(loader._loader._iterator)[0]
    assert victim.pid
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()  # nothing is raised here, in the middle of a step
    with pytest.raises(
        LoaderError, match=rf"process {victim.pid} was killed \(SIGKILL\), as the system's memory killer"
    ):
        list(batches)
    loader.close()


def test_what_a_worker_finds_wrong_with_the_data_is_one_sentence(tmp_path: Path, tokenizer_folder: Path) -> None:
    for split in ("train", "val"):
        records = [make_record(i) for i in range(8)]
        write_shards(
            tmp_path / "texts" / split, "texts", records, images={r.image_id: picture(1)[:100] for r in records}
        )
    with pytest.raises(LoaderError, match=r"^step 0, micro-batch 0: none of its samples can be used") as caught:
        list(make(tmp_path, tokenizer_folder, workers=1).train_dataloader())
    assert "Traceback" not in str(caught.value)


def test_a_system_that_starts_no_more_processes_is_told(
    shards: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = make(shards, tokenizer_folder, workers=2).train_dataloader()

    def refuse() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(LoaderError, match=r"data\.workers: the system starts no more processes \(Resource"):
        list(loader)


class Mute(Dataset[Batch]):
    """Gives what cannot be handed over."""

    def __getitem__(self, which: object) -> Batch:
        return cast("Batch", lambda: None)


@pytest.mark.slow
def test_a_worker_that_cannot_send_ends_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LoaderError, match="could not hand over a batch; its last words are above"):
        list(BatchLoader(Mute(), EvalSampler([[4]], 2), workers=1))
    assert "pickle" in capfd.readouterr().err


def starve(shards: Path, tokenizer_folder: Path, *how: str, before: tuple[str, ...] = ()) -> str:
    command = [*before, sys.executable, "-W", "ignore", "-c", STARVED, str(shards), str(tokenizer_folder), *how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout.strip().rpartition("\n")[2]


@pytest.mark.slow
@pytest.mark.parametrize("how", [("files",), ("files", "unchecked")])
def test_a_process_of_32_open_files_ends_at_once(shards: Path, tokenizer_folder: Path, how: tuple[str, ...]) -> None:
    told = starve(shards, tokenizer_folder, *how)
    assert told.startswith("sentence data.workers: a")
    assert "ulimit -n" in told


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ("unchecked",)])
def test_shared_memory_of_a_megabyte_ends_a_run_at_once(
    shards: Path, tokenizer_folder: Path, how: tuple[str, ...]
) -> None:
    small = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-m", "bash", "-c", small], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    told = starve(shards, tokenizer_folder, *how, before=("unshare", "-m", "bash", "-c", f'{small} && exec "$@"', "-"))
    assert told.startswith("sentence data.workers:")
    assert "--shm-size" in told


def trainer_of(**options: object) -> L.Trainer:
    chosen = {"fast_dev_run": False, "overfit_batches": 0.0, "limit_train_batches": 1.0, **options}
    return cast("L.Trainer", SimpleNamespace(**chosen))


def test_limits_of_the_trainer_keep_whole_steps_or_are_refused() -> None:
    for fine in ({}, {"limit_train_batches": 4}, {"limit_train_batches": 99}, {"limit_train_batches": 0.5}):
        check_limits(trainer_of(**fine), batches=16, per_step=2)
    check_limits(trainer_of(fast_dev_run=1, limit_train_batches=1), batches=16, per_step=2)
    with pytest.raises(ValueError, match=r"^trainer\.overfit_batches is 1, but the stream .* repeats no batch"):
        check_limits(trainer_of(overfit_batches=1), batches=16, per_step=2)
    with pytest.raises(
        ValueError, match=r"^trainer\.limit_train_batches is 3, .* a step has 2 of them: .* give 2 or 4"
    ):
        check_limits(trainer_of(limit_train_batches=3), batches=16, per_step=2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stop", [2, 3, 5, 7])
def test_a_limited_epoch_goes_on_where_the_last_one_ended(
    shards: Path, tokenizer_folder: Path, tmp_path: Path, stop: int
) -> None:
    def run(steps: int, checkpoint: Path | None = None) -> list[tuple[str, ...]]:
        return fit(make(shards, tokenizer_folder), tmp_path, checkpoint, Stop(steps=steps), limit_train_batches=6)

    whole = run(9)
    assert [row[0] for row in whole] == [f"{step}/{number}" for step in range(9) for number in range(2)]
    assert run(stop) + run(9, tmp_path / "last.ckpt") == whole


@pytest.mark.filterwarnings("ignore")
def test_overfitting_on_a_stream_is_refused(shards: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.overfit_batches is 1"):
        fit(make(shards, tokenizer_folder), tmp_path, None, Stop(steps=3), overfit_batches=1)
