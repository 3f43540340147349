"""Damaged files of every kind: whatever the bytes, an answer that is right, a counted skip, or one sentence.

FUZZ_SECONDS and FUZZ_SEED change how long each kind is tried, and from where. Raw annotations have a property test of
their own (tests/datamodules/prepare/test_malformed.py).
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datamodules.cache import StoreError
from datamodules.prepare.images import prepare_image
from datamodules.shards import RawSample, SampleError, ShardFolder
from datamodules.tokenizers import load_tokenizer, train_tokenizer
from datamodules.transforms import decode
from tests.datamodules.shard_factory import LINES, make_record, picture, write_shards
from tests.factories import run_checkpoint
from vle_lightning.checkpointing.store import Best, CheckpointStore
from vle_lightning.errors import UserError
from vle_lightning.hub.folder import read_plain
from vle_lightning.inference.pictures import open_picture
from vle_lightning.parsing import read_experiment
from vle_lightning.results.runs import read_runs
from vle_lightning.resuming import check_checkpoint
from vle_lightning.run_folder import RunFolder
from vle_lightning.slurm.requeue import read_history
from vle_lightning.slurm.status import read_run
from vle_lightning.tasks.pretrain import PretrainTask

SEED = int(os.environ.get("FUZZ_SEED", "0"))
QUICK, LONG = 0.5, float(os.environ.get("FUZZ_SECONDS", "60"))  # seconds for each kind of file
LEAST = 20  # inputs of each kind
PATIENCE = 20.0  # seconds that one input may take
TOLD = (UserError, SampleError, StoreError, ValueError, FileNotFoundError)  # what the command line prints as a sentence
BUGS = (UnicodeError, RecursionError)  # of Python's own, though some of them are ValueErrors
NUMBERS = [b"-1", b"0", b"1e999", b"NaN", b"99999999999999999999", b'"x"', b"null", b"[]", b"{}", b"[" * 3000]
Draw = random.Random

lengths = pytest.mark.parametrize("seconds", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)], ids=["quick", "long"])


def mutate(data: bytes, draw: Draw) -> bytes:
    """Damage bytes as disks, people and attackers do."""
    place = draw.randrange(len(data) + 1)
    end = min(len(data), place + draw.randrange(1, 64))
    content = bytearray(data)
    match draw.randrange(8):
        case 0 if data:
            content[place % len(data)] ^= 1 << draw.randrange(8)
        case 1:
            del content[place:]
        case 2:
            del content[place:end]
        case 3:
            content[place:end] = bytes(end - place)
        case 4:
            content[place:place] = content[place:end] * draw.randrange(1, 20)
        case 5:
            content[place:end] = draw.randbytes(end - place)
        case 6:
            digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
            at = draw.choice(digits) if digits else 0
            content[at : at + 1] = draw.choice(NUMBERS)
        case _:
            content = bytearray(draw.choice([b"", b"\xff\xfe", b"\0" * 100, b"{}", b"[]", data[::-1]]))
    return bytes(content)


@contextmanager
def alarm(told: str) -> Iterator[None]:
    """Let a call that hangs fail."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{told}: still at it after {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def is_told(error: Exception) -> bool:
    """Is an exception a sentence of ours?"""
    return isinstance(error, TOLD) and not isinstance(error, BUGS) and bool(str(error).strip())


def fuzz(kind: str, seconds: float, attempt: Callable[[Draw], str]) -> Counter[str]:
    """Try inputs until the time is over; print and return how they ended.

    Args:
        kind: of file, for the report.
        seconds: to spend.
        attempt: makes one input, uses it, and says how it went; what it raises must be a sentence of ours.
    """
    limit, outcomes, number = time.monotonic() + seconds, Counter[str](), 0
    while number < LEAST or time.monotonic() < limit:  # so many on the slowest machine, too
        draw = Draw(f"{SEED} {kind} {number}")
        try:
            with alarm(f"{kind} {number}"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes[attempt(draw)] += 1
        except Exception as error:
            if not is_told(error):
                raise AssertionError(f"FUZZ_SEED={SEED}, {kind} {number}: {type(error).__name__}: {error}") from error
            outcomes["told"] += 1
        number += 1
    print(f"{kind}: {number} inputs, {dict(outcomes)}")
    return outcomes


@lengths
@pytest.mark.parametrize("kind", ["manifest.json", "000000.index.npy", "000000.tar"])
def test_shards(kind: str, seconds: float, tmp_path: Path) -> None:
    sound = tmp_path / "sound" / "toy" / "train"
    write_shards(sound, "texts", map(make_record, range(3)))
    original = (sound / kind).read_bytes()
    shards = ShardFolder(sound)
    wanted = [shards.read(0, row) for row in range(shards.shard_sizes[0])]
    folder = tmp_path / "damaged" / "toy" / "train"
    shutil.copytree(sound, folder)

    def same(found: RawSample, row: int) -> bool:
        expected = wanted[row]
        return (found.image, found.record, found.item) == (expected.image, expected.record, expected.item)

    def attempt(draw: Draw) -> str:
        (folder / kind).write_bytes(mutate(original, draw))
        damaged, skips = ShardFolder(folder), 0
        for row in range(min(damaged.shard_sizes[0], len(wanted))):
            try:
                found = damaged.read(0, row)
            except SampleError:
                skips += 1
                continue
            assert same(found, row), f"row {row} is another sample"
        return "skips" if skips else "read"

    fuzz(kind, seconds, attempt)


@lengths
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_images(kind: str, seconds: float) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(0))).save(file, kind)

    def attempt(draw: Draw) -> str:
        data, read = mutate(file.getvalue(), draw), 0
        for use in (decode, lambda data: prepare_image(data, "a", 30, 90), open_picture):
            try:
                use(data)
                read += 1
            except (SampleError, ValueError) as error:
                if not is_told(error) or "\n" in str(error):
                    raise
        return f"{read} of 3 read it"

    outcomes = fuzz(kind, seconds / 3, attempt)
    assert outcomes.total() >= LEAST
    assert outcomes["3 of 3 read it"] < outcomes.total(), "no damage was noticed"


@lengths
def test_yaml(seconds: float, tmp_path: Path) -> None:
    sound = Path("experiments/pretrain/toy.yaml")
    original = (Path(__file__).parents[2] / sound).read_bytes()
    file = tmp_path / "toy.yaml"

    def attempt(draw: Draw) -> str:
        file.write_bytes(mutate(original, draw))
        experiment = read_experiment(["--config", str(file)])
        assert list(experiment.settings) == [yaml.safe_load(file.read_text())]
        return "read"

    fuzz("YAML", seconds, attempt)


@lengths
def test_checkpoints(seconds: float, tmp_path: Path) -> None:
    task = PretrainTask("tiny", classes=3)
    torch.save(run_checkpoint(task), tmp_path / "sound.ckpt")
    original, file = (tmp_path / "sound.ckpt").read_bytes(), tmp_path / "last.ckpt"

    def attempt(draw: Draw) -> str:
        file.write_bytes(mutate(original, draw))
        assert check_checkpoint(str(file), task) == 3
        found = read_plain(file, "--ckpt_path")["state_dict"]
        assert all(torch.equal(found[name], value) for name, value in task.state_dict().items())
        return "the same"

    fuzz("checkpoint", seconds, attempt)


@lengths
@pytest.mark.parametrize("kind", ["spm.model", "config.json", "tokenizer_config.json"])
def test_tokenizers(kind: str, seconds: float, tmp_path: Path) -> None:
    sound, folder = tmp_path / "sound", tmp_path / "damaged"
    train_tokenizer(LINES, sound, 200)
    shutil.copytree(sound, folder)

    def attempt(draw: Draw) -> str:
        (folder / kind).write_bytes(mutate((sound / kind).read_bytes(), draw))
        load_tokenizer(str(folder))
        return "opened"

    outcomes = fuzz(kind, seconds / 2, attempt)
    assert outcomes.total() >= LEAST
    assert outcomes["told"], "no damage was noticed"


@lengths
@pytest.mark.parametrize(
    "kind", ["checkpoints.json", "run.json", "metrics.json", "progress.json", "starts.jsonl", "config.yaml"]
)
def test_run_folders(kind: str, seconds: float, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "run"
    folder.mkdir(parents=True)
    store = CheckpointStore(folder)
    store.path(10).write_bytes(struct.pack("<q", 0))
    store.judge(10, Best(10, 0.5, "max val/score"))
    sound: dict[str, object] = {
        "run.json": {
            "run_name": "run",
            "task": "vqa",
            "steps": 3,
            "samples_seen": 12,
            "seed": 0,
            "commit": "a" * 40,
            "data": [],
        },
        "metrics.json": {"val/vqa_accuracy": 0.5, "floor/vqa_accuracy": 0.25},
        "progress.json": {"step": 3, "steps": 9, "samples_per_second": 2.5, "loss": 1.0, "time": 1.0, "devices": 1},
        "starts.jsonl": {"job": "1", "code": 75, "step": 3, "time": 1.0},
        "config.yaml": {"seed_everything": 0, "run_name": "run", "task": "vqa", "data": {"global_batch_size": 4}},
    }
    for name, content in sound.items():
        (folder / name).write_text(json.dumps(content) + "\n")
    original = (folder / kind).read_bytes()

    def attempt(draw: Draw) -> str:
        (folder / kind).write_bytes(mutate(original, draw))
        best = CheckpointStore(folder).best_so_far()
        assert best is None or (type(best.step) is int and np.isfinite(best.score))
        runs, problems = read_runs([folder.parent])
        assert len(runs) + len(problems) >= 0
        read_run(folder, {}, time.time())
        read_history(folder)
        assert RunFolder(folder).holds_a_run()  # the other records tell
        return "read"

    outcomes = fuzz(kind, seconds / 3, attempt)
    assert outcomes.total() >= LEAST
    assert outcomes["3 of 3 read it"] < outcomes.total(), "no damage was noticed"
