"""Makes the whole world folder: raw layouts, shards, tokenizer and reference scores.

``world.json`` says what the folder was made from and appears last; until then the same content stands in
``world.unfinished.json``. So a finished folder is left alone and an unfinished one is made again.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.codebook import MAKE, make_codebook
from datamodules.manifest import NAME as MANIFEST
from datamodules.prepare import Options
from datamodules.prepare.engine import all_classes, convert_dataset
from datamodules.shards import ShardFolder
from datamodules.tokenizers import load_tokenizer, train_tokenizer
from datamodules.toy.alone import Alone, draw_alone, write_alone
from datamodules.toy.layouts import write_layouts
from datamodules.toy.references import references
from datamodules.toy.scenes import SPLITS, Split, describe, draw_world
from datamodules.toy.task_layouts import write_task_layouts
from datamodules.toy.tasks import COVERED_SPLITS, GALLERY_SPLITS, PAIR_SPLITS, draw_tasks
from datamodules.toy.vision import CONVERTERS, VISION, draw_vision, vision_references, write_vision_layouts
from datamodules.toy.workers import Workers
from datamodules.toy.world import CLASSES, SCENE_PIXELS, Scene

# every question of a world trains, however few it has; validation is unseen, its answers too
ARGUMENTS: dict[str, dict[str, Any]] = {"vqav2": {"answers_with_val": False, "keep_unlisted": True}}
FORMAT = 6  # raise it when equal options give another world
FINISHED, UNFINISHED = "world.json", "world.unfinished.json"
SOURCES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("coco", "visual_genome", "relations", "vqav2", "vcr"), SPLITS),
    "nlvr2": PAIR_SPLITS,
    "snli_ve": COVERED_SPLITS,
    "flickr30k": GALLERY_SPLITS,
    **VISION,
}
ALONE: dict[str, tuple[str, ...]] = {"scenes": SPLITS, "texts": SPLITS}  # images alone, texts alone
COMMANDS = {**CONVERTERS, "scenes": "images", "relations": "visual_genome"}  # converters of other names
VOCABULARY = 256  # upper bound; the toy presets' embedding table has as many rows
SCENES_FOR_WORDS = 500  # enough for every word that the world has
REPEATS = 10  # SentencePiece leaves out pieces that it sees once
SCENES_PER_TASK = 500
CODEBOOK, CODES, PATCH_SIZE = "codebook.safetensors", 64, 8  # what the toy experiments of MIM predict
SCENES_FOR_CODES = 32  # fewer may not have so many different patches: such a world is made without a codebook


@dataclass(frozen=True)
class WorldOptions:
    """What a world is made from; equal options give equal bytes."""

    train_scenes: int = 14_000
    val_scenes: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse worlds without scenes.

        Raises:
            ValueError: A split would have fewer than two scenes, or the seed is negative.
        """
        for name in ("train_scenes", "val_scenes"):
            if getattr(self, name) < 2:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}: at least 2 are needed")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}: it must not be negative")


def build_world(out: Path, options: WorldOptions, processes: int = 2) -> bool:
    """Make the world folder unless it is finished.

    Args:
        out: Gets raw/, shards/, tokenizer/, codebook.safetensors, references.json, classes.json and world.json.
        options: What to make.
        processes: How many work at a time; the bytes do not depend on it.

    Returns:
        Whether anything had to be made: a finished world of before there were images and texts alone gets these.

    Raises:
        ValueError: The folder holds something else, or a world with other options.
    """
    content = {"format": FORMAT, **asdict(options)}
    if (out / FINISHED).is_file():
        _check_same(out / FINISHED, content)
        return _complete(out, options, processes)
    if out.exists() and not (out.is_dir() and ((out / UNFINISHED).is_file() or not any(out.iterdir()))):
        raise ValueError(f"{out} is in the way: neither empty nor a toy world; move it or name another folder (--out)")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    _write_json(out / UNFINISHED, content)
    with Workers(processes) as workers:
        _fill(out, options, workers)
    (out / UNFINISHED).rename(out / FINISHED)
    return True


def codebook_command(out: Path) -> str:
    """Return the command that makes the codebook of a finished world."""
    sizes = f"--codes {CODES} --patch-size {PATCH_SIZE} --image-size {SCENE_PIXELS}"
    return f"{MAKE} {out / 'shards' / 'coco' / 'train'} --out {out / CODEBOOK} {sizes}"


def _complete(out: Path, options: WorldOptions, processes: int) -> bool:
    """Add images alone and texts alone where they are missing; say whether they were."""
    if all((out / "shards" / name / split / MANIFEST).is_file() for name in ALONE for split in ALONE[name]):
        return False
    drawn = draw_world(options.seed, _sizes(options))
    scenes = {split: [d.scene for d in drawn if d.scene_id.split == split] for split in SPLITS}
    with Workers(processes) as workers:
        others = [*draw_tasks(options.seed, scenes).scenes(), *draw_vision(options.seed, scenes).scenes()]
        _add_alone(out, options.seed, scenes, others, workers)
    return True


def _sizes(options: WorldOptions) -> dict[Split, int]:
    return {"train": options.train_scenes, "val": options.val_scenes}


def _add_alone(
    out: Path, seed: int, scenes: dict[Split, list[Scene]], others: Iterable[Scene], workers: Workers
) -> Alone:
    shown = itertools.chain(*scenes.values(), others)
    alone = draw_alone(seed, scenes, frozenset(scene.key for scene in shown))
    write_alone(out / "raw", alone, workers)
    _convert_all(out, ALONE, workers)
    return alone


def _convert_all(out: Path, sources: dict[str, tuple[str, ...]], workers: Workers) -> None:
    for lines in workers.map(functools.partial(_convert, out), list(sources), 1):
        print(*lines, sep="\n")


def _fill(out: Path, options: WorldOptions, workers: Workers) -> None:
    drawn = draw_world(options.seed, _sizes(options))
    described = workers.map(describe, drawn, SCENES_PER_TASK)
    world = {split: [d for d in described if d.scene_id.split == split] for split in SPLITS}
    scenes = {split: [d.scene for d in world[split]] for split in SPLITS}
    tasks = draw_tasks(options.seed, scenes)
    write_layouts(out / "raw", world, workers)
    write_task_layouts(out / "raw", tasks, workers)
    vision = draw_vision(options.seed, scenes)
    write_vision_layouts(out / "raw", vision, workers)
    _convert_all(out, SOURCES, workers)
    alone = _add_alone(out, options.seed, scenes, [*tasks.scenes(), *vision.scenes()], workers)
    told = itertools.chain(*alone.told.values())
    texts = itertools.chain(tasks.texts(), told, *(description.texts() for description in described))
    train_word_tokenizer(texts, out / "tokenizer")
    if options.train_scenes >= SCENES_FOR_CODES:
        make_codebook(out / "shards" / "coco" / "train", out / CODEBOOK, CODES, PATCH_SIZE, SCENE_PIXELS)
    _write_json(out / "classes.json", CLASSES)
    known = references(world["val"], options.seed, len(tasks.gallery["test"]))
    sources = {"sources": {"pretrain": ["coco"]}}  # of captions alone, not of region phrases
    _write_json(out / "references.json", known | vision_references(vision) | sources)


def train_word_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Train a tokenizer that has a piece for every word; all worlds have the same, whatever size and seed.

    Raises:
        ValueError: A word is cut into several pieces: VOCABULARY is too small for the world's words.
    """
    sample = map(describe, draw_world(0, {"train": SCENES_FOR_WORDS, "val": 0}))
    words = sorted(words_of(text for description in sample for text in description.texts()))
    train_tokenizer(words * REPEATS, folder, VOCABULARY)
    tokenizer = load_tokenizer(str(folder))
    for word in sorted(words_of(texts)):
        pieces = tokenizer.tokenize(word)
        if len(pieces) != 1 or tokenizer.convert_tokens_to_ids(pieces[0]) == tokenizer.unk_token_id:
            raise ValueError(f"{folder}: the word {word!r} became {pieces}; raise VOCABULARY in {__name__}")


def words_of(texts: Iterable[str]) -> set[str]:
    """Return the distinct words."""
    return {word for text in texts for word in text.split()}


def _convert(out: Path, name: str) -> list[str]:
    """Convert one layout, make sure that all of it was used, and say what it gave."""
    splits, arguments = {**SOURCES, **ALONE}[name], ARGUMENTS.get(name, {})
    dataset = all_classes()[COMMANDS.get(name, name)](out / "raw" / name, **arguments)
    with contextlib.redirect_stdout(io.StringIO()):  # the progress bars of two processes would overwrite each other
        convert_dataset(name, dataset, out / "shards", Options(splits=splits), arguments)
    lines = []
    for split in splits:
        manifest = ShardFolder(out / "shards" / name / split).manifest
        if manifest.skipped:
            raise ValueError(f"{out / 'raw' / name}: layout and converter differ: {manifest.skipped} left out")
        counted = "" if manifest.kind in ("images", "passages") else f"{manifest.images:,} images, "
        lines.append(f"{name}/{split}: {counted}{manifest.samples:,} {manifest.kind}")
    return lines


def _check_same(path: Path, wanted: dict[str, int]) -> None:
    found = json.loads(path.read_bytes())
    if found != wanted:
        raise ValueError(
            f"{path} says that this world was made with {_options(found)}, not with {_options(wanted)}; "
            f"to make it again, delete {path.parent}, or name another folder (--out)"
        )


def _options(content: dict[str, int]) -> str:
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in sorted(content.items()))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
