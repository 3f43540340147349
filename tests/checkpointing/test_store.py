"""Checkpoints get their names when they are whole, and never lose them to a newer one that is not."""

from __future__ import annotations

import json
import resource
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from vle_lightning.checkpointing.store import Best, CheckpointStore, describe, verify, write
from vle_lightning.errors import UserError

HUGE = b"1" + b"0" * 400  # a whole number that no float can hold


def checkpoint(step: int) -> dict[str, Any]:
    return {"global_step": step, "state_dict": {"weight": torch.arange(1000.0) + step}}


def save(store: CheckpointStore, step: int) -> Path:
    store.make_room(step)
    write(checkpoint(step), store.unfinished(step))
    verify(store.unfinished(step), step)
    return store.commit(step)


def opened(path: Path) -> int:
    step: int = torch.load(path, weights_only=True)["global_step"]
    return step


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write more than so many bytes into a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", keep_last=2)
    save(store, 10)
    store.judge(10, Best(10, 0.5, "max val/score"))
    for step in (20, 30, 40):
        save(store, step)
    assert store.steps() == [10, 30, 40]
    assert (opened(store.last), opened(store.best)) == (40, 10)
    assert store.best_so_far() == Best(10, 0.5, "max val/score")
    store.judge(40, Best(40, 0.7, "max val/score"))
    assert store.steps() == [30, 40]


def test_links_are_relative_so_that_a_run_folder_may_move(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    save(store, 10)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert opened(moved / "last.ckpt") == 10


def test_a_full_disk_leaves_the_earlier_checkpoint_alone(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", keep_last=1)
    save(store, 10)
    with files_of_at_most(1000), pytest.raises(OSError, match=r"step_000020\.ckpt\.unfinished cannot be written"):
        write(checkpoint(20), store.unfinished(20))
    assert store.newest() == store.path(10)
    assert opened(store.last) == 10
    save(store, 20)  # there is room again
    assert store.steps() == [20]


@pytest.mark.parametrize("place", [0.3, 0.6])
def test_a_byte_that_changed_on_its_way_is_found(place: float, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(checkpoint(10), path)
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged|read back"):
        verify(path, 10)


@pytest.mark.parametrize("content", [b"", b"PK", b"no checkpoint at all"])
def test_what_is_cut_short_is_found(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read back"):
        verify(tmp_path / "file", 10)


def test_a_checkpoint_of_another_step_is_found(tmp_path: Path) -> None:
    write(checkpoint(10), tmp_path / "file")
    with pytest.raises(UserError, match="not the checkpoint of step 20"):
        verify(tmp_path / "file", 20)


def test_the_archive_is_one_that_others_can_check(tmp_path: Path) -> None:
    write(checkpoint(10), tmp_path / "file")
    assert zipfile.ZipFile(tmp_path / "file").testzip() is None


def test_what_a_kill_leaves_is_tidied_up(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    save(store, 10)
    write(checkpoint(20), store.unfinished(20))
    unlinked = store.path(30)  # killed between its name and its link
    write(checkpoint(30), unlinked)
    assert store.newest() == unlinked
    store.clean()
    assert not store.unfinished(20).exists()
    assert opened(store.last) == 30


def test_a_folder_that_was_being_replaced_gets_its_name_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    replaced = tmp_path / "step_000010.ckpt.replaced"
    replaced.mkdir()
    (replaced / "part").write_text("whole")
    store.clean()
    assert (store.path(10) / "part").read_text() == "whole"
    assert store.newest() == store.path(10)


def test_later_steps_do_not_hide_those_of_a_run_that_went_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", keep_last=5)
    for step in (10, 20, 30):
        save(store, step)
    store.judge(30, Best(30, 0.9, "max val/score"))
    moved = store.rewind(10)
    assert [opened(path) for path in moved] == [20, 30]  # put aside, not lost
    assert store.newest() == store.path(10)
    assert opened(store.last) == 10
    assert store.best_so_far() is None
    save(store, 15)
    assert opened(store.last) == 15


def test_the_best_is_noted_before_it_is_linked(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", keep_last=1)
    save(store, 10)
    store.judge(10, Best(10, 0.5, "max val/score"))
    store.best.unlink()  # killed between the note and the link
    save(store, 20)
    assert store.best_so_far() == Best(10, 0.5, "max val/score")
    store.clean()
    assert opened(store.best) == 10
    assert store.validated() == 10


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[1]", b"\xff", b'{"validated": "x"}', b'{"validated": 1, "best": {"step": 1}}', b"[" * 100_000]
    + [b'{"validated": 10, "best": {"step": 10, "score": Infinity, "rule": "max a"}}']
    + [b'{"validated": 10, "best": {"step": 10, "score": %s, "rule": "max a"}}' % score for score in (HUGE, b"true")]
    + [b'{"validated": 10, "best": {"step": %s, "score": 1, "rule": "max a"}}' % step for step in (HUGE, b"-1")]
    + [b'{"validated": %s}' % HUGE],
)
def test_a_damaged_record_is_rebuilt_from_the_newest_readable_checkpoint(damage: bytes, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", keep_last=3)
    best = Best(10, 0.5, "max val/score")
    for step in (10, 20, 30):
        store.make_room(step)
        content = checkpoint(step) | {"callbacks": {"Checkpoints": describe(min(step, 20), best)}}
        write(content, store.unfinished(step))
        store.commit(step)
    store.path(30).write_bytes(b"damaged as well")
    (store.folder / "checkpoints.json").write_bytes(damage)
    with pytest.warns(UserWarning, match=r"checkpoints.json is damaged .* rebuilt"):
        assert store.best_so_far() == best
    assert store.validated() == 20  # from the file, which is whole again
    assert json.loads((store.folder / "checkpoints.json").read_text()) == describe(20, best)


def test_a_missing_record_is_rebuilt_when_a_run_goes_on(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    best = Best(10, 0.5, "max val/score")
    for step in (10, 20):
        store.make_room(step)
        write(checkpoint(step) | {"callbacks": {"Checkpoints": describe(step, best)}}, store.unfinished(step))
        store.commit(step)
    with pytest.warns(UserWarning, match=r"checkpoints.json is missing: it was rebuilt .* best: Best\(step=10"):
        store.clean()
    assert (store.validated(), store.best_so_far()) == (20, best)
    assert store.best.resolve() == store.path(10)


def test_a_run_without_a_validation_so_far_has_no_record_and_says_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    save(store, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.clean()
    assert not (store.folder / "checkpoints.json").exists()


def test_a_record_is_not_rebuilt_from_a_checkpoint_with_a_flipped_bit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", keep_last=3)
    for step, score in ((10, 0.5), (20, 0.75)):
        store.make_room(step)
        write(
            checkpoint(step) | {"callbacks": {"Checkpoints": describe(step, Best(step, score, "max a"))}},
            store.unfinished(step),
        )
        store.commit(step)
    content = bytearray(store.path(20).read_bytes())
    content[content.index(struct.pack(">d", 0.75))] ^= 1  # another score, as sound to look at
    store.path(20).write_bytes(content)
    (store.folder / "checkpoints.json").write_bytes(b"")
    with pytest.warns(UserWarning, match="rebuilt"):
        assert store.best_so_far() == Best(10, 0.5, "max a")


def test_a_damaged_record_beside_checkpoints_without_one_is_empty(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run")
    save(store, 10)
    (store.folder / "checkpoints.json").write_bytes(b"")
    with pytest.warns(UserWarning, match="validated last: None"):
        assert store.best_so_far() is None
    assert store.newest() == store.path(10)
