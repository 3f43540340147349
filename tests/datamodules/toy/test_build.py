"""The whole world folder: complete, reproducible, made once, and never mistaken for another."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from datamodules.shards import ShardFolder
from datamodules.tokenizers import load_tokenizer
from datamodules.toy.__main__ import main
from datamodules.toy.build import (
    FINISHED,
    SOURCES,
    UNFINISHED,
    WorldOptions,
    build_world,
    train_word_tokenizer,
)
from datamodules.toy.layouts import write_layouts
from datamodules.toy.scenes import SPLITS, Description, Split, describe, draw_world
from datamodules.toy.workers import Workers
from datamodules.toy.world import CLASSES

OPTIONS = WorldOptions(train_scenes=12, val_scenes=4, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "toy"
    assert build_world(out, OPTIONS, processes=1)
    return out


@pytest.fixture(scope="module")
def described() -> dict[int, Description]:
    sizes: dict[Split, int] = {"train": OPTIONS.train_scenes, "val": OPTIONS.val_scenes}
    return {drawn.image_id: describe(drawn) for drawn in draw_world(OPTIONS.seed, sizes)}


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_equal_options_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    build_world(tmp_path / "again", OPTIONS, processes=1)
    assert digests(folder) == digests(tmp_path / "again")


def test_a_finished_folder_is_left_alone(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert not build_world(folder, OPTIONS)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_an_unfinished_folder_is_made_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy"
    shutil.copytree(folder, out)
    (out / FINISHED).rename(out / UNFINISHED)
    (out / "shards/coco/val/manifest.json").unlink()
    (out / "left over").write_text("from the broken run")
    assert build_world(out, OPTIONS, processes=1)
    assert digests(out) == digests(folder)


def test_other_options_are_an_error_that_says_how_to_remake(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"seed 3.*not with.*seed 4.*delete"):
        build_world(folder, WorldOptions(12, 4, seed=4))


def test_a_folder_with_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="in the way"):
        build_world(tmp_path, OPTIONS)
    assert (tmp_path / "thesis.txt").is_file()


def test_options_without_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match="--val-scenes is 1"):
        WorldOptions(val_scenes=1)
    with pytest.raises(ValueError, match="--seed is -1"):
        WorldOptions(seed=-1)


def test_every_sample_arrives_in_the_shards(folder: Path, described: dict[int, Description]) -> None:
    per_image = {"coco": 5, "vqav2": 3, "vcr": 2}
    for name in ("coco", "visual_genome", "vqav2", "vcr"):
        for split, scenes in (("train", OPTIONS.train_scenes), ("val", OPTIONS.val_scenes)):
            shards = ShardFolder(folder / "shards" / name / split)
            objects = sum(len(d.scene.objects) for d in described.values() if d.scene_id.split == split)
            assert shards.manifest.images == scenes
            assert not shards.manifest.skipped
            assert len(shards) == (scenes * per_image[name] if name in per_image else objects)


def test_every_relation_arrives_in_the_shards(folder: Path, described: dict[int, Description]) -> None:
    for split in SPLITS:
        told = [list(filter(None, d.relations)) for d in described.values() if d.scene_id.split == split]
        shards = ShardFolder(folder / "shards/relations" / split)
        assert (shards.manifest.images, len(shards)) == (len(list(filter(None, told))), sum(map(len, told)))


def test_every_sample_of_the_tasks_arrives_in_the_shards(folder: Path) -> None:
    """Of 12 and 4 scenes all splits but SNLI-VE's and Flickr30k's train are the smallest that there are: 4."""
    images = {"nlvr2": 4 * 4, "snli_ve": 4, "flickr30k": 4}  # a block has four pairs
    for name, per_image in {"nlvr2": 2, "snli_ve": 3, "flickr30k": 5}.items():
        for split in SOURCES[name]:
            shards = ShardFolder(folder / "shards" / name / split)
            assert not shards.manifest.skipped
            assert shards.manifest.images == (6 if split == "train" and name != "nlvr2" else images[name])
            assert len(shards) == per_image * shards.manifest.images


def test_the_world_without_the_tasks_is_what_it_was(folder: Path, described: dict[int, Description]) -> None:
    """The layouts of the world's own scenes do not depend on whether others are written beside them."""
    alone = folder.parent / "alone"
    world = {split: [d for d in described.values() if d.scene_id.split == split] for split in SPLITS}
    write_layouts(alone, world, Workers(1))
    train_word_tokenizer([], folder.parent / "tokenizer")
    for name in ("coco", "visual_genome", "relations", "vqav2", "vcr"):
        assert digests(alone / name) == digests(folder / "raw" / name)
    assert digests(folder.parent / "tokenizer") == digests(folder / "tokenizer")


def test_no_image_id_means_two_pictures(folder: Path) -> None:
    shown: dict[str, set[bytes]] = {}
    for name in ("snli_ve", "flickr30k"):
        for split in SOURCES[name]:
            shards = ShardFolder(folder / "shards" / name / split)
            for shard, row in ((shard, row) for shard, size in enumerate(shards.shard_sizes) for row in range(size)):
                sample = shards.read(shard, row)
                shown.setdefault(sample.record.image_id, set()).add(sample.image)
    assert len(shown) == 2 * (6 + 4 + 4)
    assert {len(pictures) for pictures in shown.values()} == {1}


def test_coco_records_keep_the_mentions_of_the_world(folder: Path, described: dict[int, Description]) -> None:
    shards = ShardFolder(folder / "shards/coco/val")
    for shard, size in enumerate(shards.shard_sizes):
        for row in range(size):
            record = shards.read(shard, row).record
            description = described[int(record.image_id.split("/")[-1])]
            assert record.names == tuple(item.class_name for item in description.scene.objects)
            assert [(t.text, t.boxes) for t in record.texts] == [(c.text, c.objects) for c in description.captions]


def test_the_folder_says_classes_answers_and_references(folder: Path) -> None:
    assert json.loads((folder / "classes.json").read_bytes()) == list(CLASSES)
    assert (folder / "shards/answers.json").is_file()
    found = json.loads((folder / "references.json").read_bytes())
    assert found.pop("sources") == {"pretrain": ["coco"]}
    vision = {"classification", "segmentation"}
    assert set(found) == {"pretrain", "vqa", "vcr", "nlvr2", "snli_ve", "retrieval"} | vision
    for scores in found.values():
        for name, score in scores.items():
            bound, metric = name.split("/")
            assert bound in ("ceiling", "floor")
            assert scores[f"floor/{metric}"] < scores[f"ceiling/{metric}"] <= 1
            assert score > 0
    assert found["pretrain"]["floor/itm_accuracy"] == 0.5
    assert found["vcr"]["floor/q2ar"] == 0.0625
    assert found["nlvr2"]["floor/consistency"] == 0.0625
    assert found["snli_ve"]["floor/accuracy"] == pytest.approx(1 / 3)
    assert found["retrieval"]["floor/tr@1"] == found["retrieval"]["floor/ir@1"] == 1 / 4


def test_every_word_is_one_piece_in_any_world(folder: Path, described: dict[int, Description]) -> None:
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    assert len(tokenizer) <= 256
    for description in described.values():
        for text in description.texts():
            assert len(tokenizer.tokenize(text)) == len(text.split())
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


def test_a_word_that_is_cut_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'zebra' became"):
        train_word_tokenizer(["small zebra"], tmp_path)


def test_command_line_makes_a_world_and_reports_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "something").touch()
    assert main(["--out", str(tmp_path)]) == 2
    assert "in the way" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "toy"), "--train-scenes", "0"]) == 2
    assert "--train-scenes is 0" in capsys.readouterr().err


def test_command_line_leaves_a_finished_world_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(folder), "--train-scenes", "12", "--val-scenes", "4", "--seed", "3"]
    assert main(arguments) == 0
    assert "made already" in capsys.readouterr().out
