"""Datamodules: options, checks, loaders, and a run that resumes behind its last step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from datamodules import pretrain, vcr, vqa
from datamodules.base import check_splits
from datamodules.loader import MicroBatchLoader
from datamodules.pretrain import PretrainDataModule
from tests.datamodules.shard_factory import make_record, write_shards
from vle_lightning.batch import Batch, PretrainBatch

Ids = list[tuple[str, ...]]


def options(shards: Path, tokenizer_folder: Path, kind: str = "texts", **changes: object) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "root": shards,
        "sources": {kind: 1.0},
        "tokenizer": str(tokenizer_folder),
        "batch_size": 4,
        "global_batch_size": 8,
        "image_size": 48,
        "workers": 0,
    }
    return chosen | changes


def make(shards: Path, tokenizer_folder: Path, **changes: object) -> PretrainDataModule:
    chosen: dict[str, Any] = {"patch_size": 8, "classes": ["red circle", "person"]} | changes
    module = PretrainDataModule(**options(shards, tokenizer_folder, **chosen))
    module.setup("fit")
    return module


def ids(loader: Iterable[Batch]) -> Ids:
    return [batch.sample_ids for batch in loader]


def equal(one: Batch, other: Batch) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def test_each_task_makes_its_batches(shards: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text('["red", "no"]')
    modules: list[Any] = [
        pretrain.DataModule(**options(shards, tokenizer_folder, patch_size=8)),
        vqa.DataModule(answers=answers, **options(shards, tokenizer_folder, "questions")),
        vcr.DataModule(mode="qa2r", **options(shards, tokenizer_folder, "vcr")),
    ]
    for module, samples in zip(modules, (60, 30, 30), strict=True):
        module.setup("fit")
        batch = next(iter(module.train_dataloader()))
        assert batch.pixel_values.shape == (4, 3, 48, 48)
        assert len(module.train_dataloader()) == samples // 8 * 2
        assert module.vocab_size == len(module.tokenizer)
        found = [name for names in ids(module.val_dataloader()) for name in names]
        assert len(found) == len(set(found)) == (22 if module.kind == "texts" else 11)
        assert ids(module.predict_dataloader()) == ids(module.val_dataloader())


def test_validation_is_the_same_each_time_and_can_be_limited(shards: Path, tokenizer_folder: Path) -> None:
    module = make(shards, tokenizer_folder)
    first, second = list(module.val_dataloader()), list(module.val_dataloader())
    assert all(map(equal, first, second))
    few = ids(make(shards, tokenizer_folder, limit_val=6).val_dataloader())
    assert sum(map(len, few)) == 6
    assert few[0] == first[0].sample_ids


def test_workers_change_nothing(shards: Path, tokenizer_folder: Path) -> None:
    alone = list(make(shards, tokenizer_folder).train_dataloader())
    helped = list(make(shards, tokenizer_folder, workers=2).train_dataloader())
    assert len(alone) == 14
    assert all(map(equal, alone, helped))


def two_epochs(loader: MicroBatchLoader[PretrainBatch]) -> list[PretrainBatch]:
    return [batch for _ in range(2) for batch in loader]


@pytest.fixture(scope="module")
def whole(shards: Path, tokenizer_folder: Path) -> list[PretrainBatch]:
    """The micro-batches of two epochs."""
    return two_epochs(make(shards, tokenizer_folder).train_dataloader())


@pytest.mark.parametrize("stop", [1, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (4, 5, 14, 17))])
def test_a_resumed_loader_gives_the_very_next_micro_batch(
    shards: Path, tokenizer_folder: Path, whole: list[PretrainBatch], stop: int
) -> None:
    loader = make(shards, tokenizer_folder, workers=2).train_dataloader()
    handed_out = 0
    while handed_out < stop:
        for _ in loader:
            handed_out += 1
            if handed_out == stop:
                break
    state = loader.state_dict()
    assert state == {"step": stop // 2}  # a step is two micro-batches; an unfinished one is done again
    resumed = make(shards, tokenizer_folder, workers=2).train_dataloader()
    resumed.load_state_dict(state)
    rest = two_epochs(resumed)[: 28 - stop // 2 * 2]
    assert all(map(equal, rest, whole[stop // 2 * 2 :]))
    assert len(rest) >= 28 - stop // 2 * 2 - 14


class Stop(NamedTuple):
    """When a run ends."""

    steps: int = -1
    epochs: int | None = None


class Recorder(L.LightningModule):
    """Counts what it is given."""

    def __init__(self, seen: Ids) -> None:
        super().__init__()
        self.layer, self.seen = nn.Linear(1, 1), seen

    def training_step(self, batch: PretrainBatch) -> Tensor:
        self.seen.append((f"{batch.step}/{batch.number}", *batch.sample_ids))
        loss: Tensor = self.layer(batch.pixel_values.mean().view(1, 1)).sum()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module: PretrainDataModule, folder: Path, checkpoint: Path | None, stop: Stop, **limits: int) -> Ids:
    seen: Ids = []
    trainer = L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=module.accumulation(1),
        max_steps=stop.steps,
        max_epochs=stop.epochs,
        **limits,  # type: ignore[arg-type]
    )
    trainer.fit(Recorder(seen), module, ckpt_path=str(checkpoint) if checkpoint else None, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")
    return seen


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (Stop(steps=3), Stop(steps=16)),  # in the middle of an epoch of seven steps
        (Stop(steps=7), Stop(steps=16)),  # at its end
        (Stop(epochs=1), Stop(epochs=3)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_with_the_very_next_micro_batch(
    shards: Path, tokenizer_folder: Path, tmp_path: Path, first: Stop, then: Stop
) -> None:
    whole = fit(make(shards, tokenizer_folder), tmp_path, None, then)
    begun = fit(make(shards, tokenizer_folder), tmp_path, None, first)
    rest = fit(make(shards, tokenizer_folder), tmp_path, tmp_path / "last.ckpt", then)
    assert begun + rest == whole
    assert [row[0] for row in whole[:4]] == ["0/0", "0/1", "1/0", "1/1"]


def test_missing_data_says_what_to_run(shards: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.root: .*nowhere not found; make data-toy"):
        make(tmp_path / "nowhere", tokenizer_folder)
    with pytest.raises(FileNotFoundError, match="tokenizer folder .*nowhere not found"):
        make(shards, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"absent/train/manifest\.json not found"):
        make(shards, tokenizer_folder, sources={"absent": 1.0})
    with pytest.raises(ValueError, match=r"data\.sources: .*vcr/train holds vcr, but task pretrain reads texts"):
        make(shards, tokenizer_folder, sources={"vcr": 1.0})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sources": {}}, r"data\.sources is empty"),
        ({"val_sources": ["other"]}, r"data\.val_sources: other not in"),
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"workers": -1}, r"data\.workers is -1"),
        ({"limit_val": 0}, r"data\.limit_val is 0"),
        ({"crop_scale": (0.0, 1.0)}, r"data\.crop_scale"),
        ({"sources": {"texts": float("nan")}}, r"data\.sources\.texts is nan"),
        ({"sources": {"texts": 1e9}}, r"data\.sources\.texts is 1000000000\.0"),
        ({"augment_ops": 99}, r"data\.augment_ops is 99"),
        ({"augment_magnitude": 11}, r"data\.augment_magnitude is 11"),
        ({"cache_gb": 0}, r"data\.cache_gb is 0"),
        ({"shuffle_shards": 0}, r"data\.shuffle_shards is 0"),
        ({"mask_share": 1.5}, r"data\.mask_share is 1\.5"),
        ({"patch_size": 7}, r"data\.image_size 48 is not a multiple of data\.patch_size 7"),
    ],
)
def test_impossible_options_name_their_key(
    shards: Path, tokenizer_folder: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        make(shards, tokenizer_folder, **changes)


def test_batch_sizes_that_do_not_fit_are_refused(shards: Path, tokenizer_folder: Path) -> None:
    module = make(shards, tokenizer_folder, batch_size=3)
    with pytest.raises(ValueError, match="nearest possible: data.global_batch_size 6 or 9, or data.batch_size 2 or 4"):
        module.accumulation(1)
    with pytest.raises(ValueError, match="nearest possible"):
        module.train_dataloader()


def test_classes_that_are_not_mapped_are_counted(shards: Path, tokenizer_folder: Path) -> None:
    module = make(shards, tokenizer_folder, classes=["red circle", "person"])
    mapped = {"red circle", "person"}
    names = [name for i in (*range(30), *range(100, 111)) for name in make_record(i).names]
    assert module.unmapped_classes == {n: names.count(n) for n in set(names) - mapped - {""}}
    assert module.class_names == ["red circle", "person"]
    assert make(shards, tokenizer_folder, classes=["red circle"], class_count=3).class_names == [
        "red circle",
        "",
        "",
    ]


def test_manifests_and_references_are_told(tmp_path: Path, tokenizer_folder: Path) -> None:
    root = tmp_path / "shards"
    for split in ("train", "val"):
        write_shards(root / "texts" / split, "texts", map(make_record, range(8)))
    module = make(root, tokenizer_folder)
    assert module.references() == {}
    (tmp_path / "references.json").write_text(json.dumps({"pretrain": {"floor/x": 0.5}, "vqa": {"floor/x": 0.1}}))
    assert module.references() == {"floor/x": 0.5}
    for sources, expected in ((["texts"], {"floor/x": 0.5}), (["captions"], {})):
        known = {"pretrain": {"floor/x": 0.5}, "sources": {"pretrain": sources}}
        (tmp_path / "references.json").write_text(json.dumps(known))
        assert module.references() == expected
    paths = [root / "texts" / split / "manifest.json" for split in ("train", "val")]
    assert module.manifests() == [
        {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in paths
    ]


def test_a_test_split_must_be_named(shards: Path, tokenizer_folder: Path) -> None:
    module = make(shards, tokenizer_folder)
    with pytest.raises(ValueError, match=r"data\.test_split is not set"):
        module.test_dataloader()
    module = make(shards, tokenizer_folder, test_split="val")
    module.setup("test")
    assert sum(map(len, ids(module.test_dataloader()))) == 22


def test_several_splits_are_trained_on_together(tmp_path: Path, tokenizer_folder: Path) -> None:
    for split, numbers in {"train": range(8), "val_train": range(8, 12), "val_rest": range(12, 14)}.items():
        write_shards(tmp_path / "toy" / split, "texts", map(make_record, numbers))
    chosen: dict[str, Any] = {"patch_size": 8, "classes": ["red circle", "person"], "val_split": "val_rest"}
    chosen |= {"train_split": ["train", "val_train"], "sources": {"toy": 1.0}, "batch_size": 4, "global_batch_size": 4}
    module = PretrainDataModule(**options(tmp_path, tokenizer_folder, **chosen))
    module.check()
    module.setup("fit")
    seen = [name for names in ids(module.train_dataloader()) for name in names]
    assert len(seen) == len(set(seen)) == 24  # two texts of each of twelve images, each once an epoch
    assert module.samples_by_source(6) == {"toy/train": 16, "toy/val_train": 8}
    evaluated = {name for names in ids(module.val_dataloader()) for name in names}
    assert evaluated
    assert not evaluated & set(seen)


@pytest.mark.parametrize(
    ("trained", "evaluated"),
    [(["train", "val_train"], "val"), (["val_rest"], "val"), (["train", "val"], "val_rest")],
)
def test_a_whole_and_its_part_are_the_same_data(trained: list[str], evaluated: str) -> None:
    with pytest.raises(ValueError, match=f"data.val_split {evaluated} is trained on"):
        check_splits(trained, {"val_split": evaluated})
    check_splits(["train", "val_train"], {"val_split": "val_rest", "test_split": "test-dev"})


@pytest.mark.parametrize("train", ["val", ["train", "val"], "val_rest"])
def test_what_is_trained_on_is_not_evaluated(train: str | list[str], shards: Path, tokenizer_folder: Path) -> None:
    chosen: dict[str, Any] = {"patch_size": 8, "train_split": train, "val_split": "val_rest"}
    with pytest.raises(ValueError, match=r"data.val_split val_rest is trained on"):
        PretrainDataModule(**options(shards, tokenizer_folder, **chosen)).check()
