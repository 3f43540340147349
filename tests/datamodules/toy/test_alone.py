"""Pictures without captions and captions without pictures: of scenes that nothing else shows; old worlds get them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from datamodules.shards import ShardFolder
from datamodules.toy.alone import draw_alone
from datamodules.toy.build import WorldOptions, build_world
from datamodules.toy.language import parse
from datamodules.toy.scenes import SPLITS, draw_world
from datamodules.toy.tasks import draw_tasks
from datamodules.toy.vision import draw_vision
from datamodules.transforms import decode

OPTIONS = WorldOptions(train_scenes=14, val_scenes=4, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "toy"
    assert build_world(out, OPTIONS, processes=1)
    return out


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_world_has_pictures_with_boxes_and_texts_without_pictures(folder: Path) -> None:
    for split, size in (("train", 10), ("val", 4)):
        scenes, texts = (ShardFolder(folder / "shards" / name / split) for name in ("scenes", "texts"))
        assert (scenes.kind, texts.kind) == ("images", "passages")
        assert (len(scenes), len(texts)) == (size, 5 * size)
        raw = scenes.read(0, 0)
        assert decode(raw.image).shape == (3, 48, 48)
        assert len(raw.record.boxes) == len(raw.record.names) > 0
        assert raw.record.texts == ()
        text = texts.read(0, 0)
        assert text.image == b""
        assert parse(text.record.texts[0].text).text == text.record.texts[0].text


def test_their_scenes_are_shown_nowhere_else() -> None:
    drawn = draw_world(0, {"train": 300, "val": 40})
    world = {split: [d.scene for d in drawn if d.scene_id.split == split] for split in SPLITS}
    tasks = draw_tasks(0, world)
    vision = draw_vision(0, world)
    taken = frozenset(scene.key for scenes in (*world.values(), tasks.scenes(), vision.scenes()) for scene in scenes)
    alone = draw_alone(0, world, taken)
    train, val = ({scene.key for scene in alone.bare[split]} for split in SPLITS)
    assert len(alone.bare["train"]) == 214
    assert not train & taken
    assert not val & (taken | train)
    assert len(alone.told["train"]) == 5 * 214


def test_a_world_of_before_gets_what_it_lacks(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "toy"
    shutil.copytree(folder, old)
    for part in ("raw", "shards"):
        for name in ("scenes", "texts"):
            shutil.rmtree(old / part / name)
    assert build_world(old, OPTIONS, processes=1)
    assert digests(old) == digests(folder)
    assert not build_world(old, OPTIONS, processes=1)
