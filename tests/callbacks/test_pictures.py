"""Pictures at validation, at the end of splits, and of predicted samples."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.factories import pretrain_batch, vcr_batch, vqa_batch
from vle_lightning.batch import Batch
from vle_lightning.callbacks.pictures import Pictures, Plots, samples
from vle_lightning.callbacks.recorder import RunLogger
from vle_lightning.cli import main
from vle_lightning.optim import OptimConfig
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.pictures import Names, Picture

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "pretrain" / "toy.yaml"
NAMES = Names(str, ())


class Drawer(VisionLanguageTask):
    """Draws empty figures and remembers of what."""

    monitor: ClassVar[str] = "val/x"  # type: ignore[misc]

    def __init__(self) -> None:
        super().__init__("tiny", "none", OptimConfig(), 0)
        self.drawn: list[tuple[str, ...]] = []
        self.splits: list[Stage] = []

    def pictures(self, batch: Batch, names: Names) -> Iterable[Picture]:
        self.drawn.append(batch.sample_ids)
        assert names is NAMES
        assert not torch.is_grad_enabled()
        return [Picture("answers", Figure(figsize=(1, 1)))]

    def split_pictures(self, stage: Stage) -> Iterable[Picture]:
        self.splits.append(stage)
        return [Picture("confusion", Figure(figsize=(1, 1)))]


def make_trainer(rank: int = 0, *, checking: bool = False) -> Any:  # noqa: ANN401 (stands for a Trainer)
    plugin = SimpleNamespace(forward_context=nullcontext)
    options = {"is_global_zero": rank == 0, "sanity_checking": checking, "precision_plugin": plugin}
    return SimpleNamespace(**options, loggers=[], global_step=0, strategy=None)


def written(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*.png"))


def test_a_picture_that_a_full_disk_does_not_take_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_short(file: Path, png: bytes) -> int:
        with file.open("wb") as opened:
            opened.write(png[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", cut_short)
    callback = Pictures(tmp_path, lambda: NAMES)
    with pytest.warns(UserWarning, match=r"answers.png cannot be written: .*No space left"):
        callback.on_validation_batch_end(make_trainer(), Drawer(), None, vqa_batch(), 0)
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "tag"),
    [(RunLogger, "pictures/answers"), (TensorBoardLogger, "answers")],
    ids=["a run's", "an experiment's own"],
)
def test_pictures_reach_every_logger_of_tensorboard(tmp_path: Path, kind: type[TensorBoardLogger], tag: str) -> None:
    trainer, logger = make_trainer(), kind(tmp_path / "events")
    trainer.loggers = [logger]
    Pictures(tmp_path, lambda: NAMES).on_validation_batch_end(trainer, Drawer(), None, vqa_batch(), 0)
    logger.experiment.flush()
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert events.Tags()["images"] == [tag]


def test_the_first_batch_and_the_ends_of_splits_are_drawn(tmp_path: Path) -> None:
    task, pictures = Drawer(), Pictures(tmp_path, lambda: NAMES)
    for number in range(2):
        pictures.on_validation_batch_end(make_trainer(), task, None, vqa_batch(), number)
    pictures.on_validation_end(make_trainer(), task)
    pictures.on_test_end(make_trainer(), task)
    assert task.drawn == [vqa_batch().sample_ids]
    assert task.splits == [Stage.VAL, Stage.TEST]
    assert written(tmp_path / "pictures") == ["answers.png", "test_confusion.png", "val_confusion.png"]
    Image.open(tmp_path / "pictures" / "answers.png").verify()


def test_nothing_is_drawn_in_a_sanity_check_and_only_rank_zero_writes(tmp_path: Path) -> None:
    task, pictures = Drawer(), Pictures(tmp_path, lambda: NAMES)
    checking = make_trainer(checking=True)
    pictures.on_validation_batch_end(checking, task, None, vqa_batch(), 0)
    pictures.on_validation_end(checking, task)
    assert (task.drawn, task.splits) == ([], [])
    pictures.on_validation_batch_end(make_trainer(rank=1), task, None, vqa_batch(), 0)
    pictures.on_validation_end(make_trainer(rank=1), task)
    assert (len(task.drawn), len(task.splits)) == (1, 1)
    assert written(tmp_path) == []


def test_plots_are_one_file_a_sample_up_to_the_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, plots = Drawer(), Plots(tmp_path / "plots", 5, lambda: NAMES)
    for number in range(2):
        plots.on_predict_batch_end(make_trainer(), task, None, vqa_batch(rows=4), number)
    plots.on_predict_end(make_trainer(), task)
    assert task.drawn == [("question/0",), ("question/1",), ("question/2",), ("question/3",), ("question/0",)]
    names = [f"answers_{n:04}_question-{n - 1}.png" for n in range(1, 5)]
    assert written(tmp_path) == [*names, "answers_0005_question-0.png"]
    assert "has the pictures of 5 samples" in capsys.readouterr().out


def test_fillers_are_drawn_along_but_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, plots = Drawer(), Plots(tmp_path, 9, lambda: NAMES)
    batch = replace(vqa_batch(rows=2), valid=torch.tensor([True, False]))
    plots.on_predict_batch_end(make_trainer(), task, None, batch, 0)
    plots.on_predict_end(make_trainer(), task)
    assert len(task.drawn) == 2  # as many as on any other rank
    assert written(tmp_path) == ["answers_0001_question-0.png"]
    assert "pictures of 1 samples" in capsys.readouterr().out


@pytest.mark.parametrize("batch", [vqa_batch(rows=3), vcr_batch(rows=3), pretrain_batch(rows=3)])
def test_a_batch_comes_apart_into_its_rows(batch: Any) -> None:  # noqa: ANN401 (any of three)
    rows = list(samples(batch))
    assert [row.sample_ids for row in rows] == [(name,) for name in batch.sample_ids]
    for field in ("pixel_values", "input_ids", "attention_mask"):
        joined = torch.cat([getattr(row, field) for row in rows])
        assert torch.equal(joined, getattr(batch, field))
    assert [row.texts for row in rows] == [(text,) for text in batch.texts]
    assert all(row.skipped == batch.skipped for row in rows)


def test_a_pair_taken_out_of_its_batch_is_beside_its_own_text() -> None:
    assert [row.partner.tolist() for row in samples(pretrain_batch(rows=4))] == [[0]] * 4


def test_a_batch_that_is_no_list_of_pairs_stays_whole() -> None:
    batch = Batch(sample_ids=("a", "b"), valid=torch.ones(2, dtype=torch.bool), step=0, number=0)
    assert list(samples(batch)) == [batch]


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        ("fit", ("--plots", "x"), "there is no option plots"),
        ("predict", ("--plots", "x", "--plots_count", "0"), "plots_count is 0; it must be at least 1"),
        ("predict", ("--plotz_count", "3"), "did you mean plots_count?"),
    ],
)
def test_plots_are_an_option_of_predict_alone(
    command: str, options: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--config", str(EXPERIMENT), *options]) == 2
    assert told in capsys.readouterr().err
