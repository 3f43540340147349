"""Every experiment file parses, builds at tiny width, and runs on the embedded world."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from vle_lightning.cli import main
from vle_lightning.encoders.base import PixelFacts
from vle_lightning.experiment import ExperimentCLI
from vle_lightning.models.mome import HALF

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FILES = sorted(f for f in EXPERIMENTS.rglob("*.yaml") if f.parent.name != "ablations")  # which are studies
QUICK = (  # of most tasks; pretrain runs in test_cli.py, snli_ve in test_evaluation.py; nlvr2 and retrieval are slow
    "vcr/toy_q2a.yaml",
    "vqa/toy.yaml",
    "pretrain_images/vlmo_toy.yaml",
    "pretrain_texts/vlmo_toy.yaml",
    "classification/toy.yaml",
    "segmentation/toy.yaml",
)
EXPERTS = ("vlmo",)  # how the files of mixtures of experts begin
TINY = ["--trainer.accelerator", "cpu", "--trainer.devices", "1"]
WORLD = {  # source, validation and test split of each task in the embedded world
    "pretrain": ("coco", "val", None),
    "classification": ("classes", "val", None),
    "segmentation": ("masks", "val", None),
    "vcr": ("vcr", "val", None),
    "vqa": ("vqav2", "val", None),
    "nlvr": ("nlvr2", "dev", "test1"),  # the left pictures alone
    "nlvr2": ("nlvr2", "dev", "test1"),
    "retrieval": ("flickr30k", "val", "test"),
    "dual_retrieval": ("flickr30k", "val", "test"),
    "snli_ve": ("snli_ve", "dev", "test"),
    "pretrain_images": ("scenes", "val", None),
    "pretrain_texts": ("texts", "val", None),
}


def name_of(file: Path) -> str:
    return str(file.relative_to(EXPERIMENTS))


def has_a_twin(file: Path) -> bool:
    """Is there the same recipe for a smaller model or set? At tiny width it differs by its numbers alone."""
    return bool({"large", "plus"} & set(file.stem.split("_"))) or file.stem.endswith("_coco")


def at_tiny_width(file: Path) -> list[str]:
    """Return the options that make an experiment's model the smallest of its family, on the CPU."""
    tiny = "vlmo-tiny" if file.stem.startswith(EXPERTS) else "tiny"
    if file.parent.name == "nlvr2" and tiny == "vlmo-tiny":
        tiny = json.dumps({"preset": tiny, "token_types": 3})
    return [*TINY, "--model.architecture", tiny]


def from_nowhere(file: Path) -> list[str]:
    """Return the options that make an experiment start without any checkpoint."""
    options = yaml.safe_load(file.read_text())["model"]
    return [part for key in options if key.endswith("init") for part in (f"--model.{key}", "null")]


def on_the_toy_world(file: Path, world: Path) -> list[str]:
    """Return the options that run an experiment for two steps on the embedded world."""
    task = file.parent.name
    source, val_split, test_split = WORLD[task]
    pixels = HALF if file.stem.startswith(EXPERTS) else PixelFacts()  # the tiny presets'
    options = {
        "data.root": world / "shards",
        "data.tokenizer": world / "tokenizer",
        "data.sources": json.dumps({source: 1.0}),
        "data.val_sources": "null",
        "data.train_split": "train",
        "data.val_split": val_split,
        "data.test_split": test_split or "null",
        "data.image_size": 48,
        "data.pixel_mean": list(pixels.mean),
        "data.pixel_std": list(pixels.std),
        "data.max_text_length": 32,
        "data.batch_size": 4,
        "data.global_batch_size": 8,
        "data.workers": 0,
        "data.limit_val": 8,
        "trainer.max_steps": 2,
        "trainer.enable_progress_bar": "false",
        "validate_every": 2,
    }
    if task == "pretrain":
        options |= {"data.patch_size": 8, "data.classes": world / "classes.json", "model.classes": 24}
    if task == "pretrain_images":
        del options["data.tokenizer"]
        options |= {"data.patch_size": 8, "data.codebook": world / "codebook.safetensors", "model.codes": 64}
    if task == "vcr":
        options["data.max_objects"] = 10  # the tiny preset has rows for so many
    if task in ("classification", "segmentation"):
        names = world / "shards" / source / "classes.json"
        options |= {"data.classes": names, "model.classes": len(json.loads(names.read_text()))}
    if task == "segmentation":
        options |= {"model.channels": 8}
    if task == "vqa":
        answers = world / "shards" / "answers.json"
        options |= {"data.answers": answers, "model.answers": len(json.loads(answers.read_text()))}
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=pytest.mark.slow if has_a_twin(file) else (), id=name_of(file)) for file in FILES],
)
def test_every_file_parses_and_builds_at_tiny_width(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli = ExperimentCLI(["--config", str(file), *at_tiny_width(file), *from_nowhere(file)], run=False)
    assert cli.settings.task == file.parent.name
    assert cli.settings.run_name == f"{file.parent.name}-{file.stem}"
    accumulation = cli.settings.data.global_batch_size // cli.settings.data.batch_size
    assert cli.trainer.accumulate_grad_batches == accumulation


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=() if name_of(file) in QUICK else pytest.mark.slow, id=name_of(file)) for file in FILES],
)
@pytest.mark.usefixtures("unrendered")
def test_every_file_runs_two_steps(
    file: Path, toy_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = [*at_tiny_width(file), *from_nowhere(file), *on_the_toy_world(file, toy_world)]
    assert main(["fit", "--config", str(file), *overrides]) == 0
    folder = tmp_path / "checkpoints" / f"{file.parent.name}-{file.stem}"
    record = json.loads((folder / "run.json").read_text())
    assert (record["steps"], record["samples_seen"]) == (2, 16)
    is_tested = WORLD[file.parent.name][2] is not None
    assert is_tested == any(name.startswith("test/") for name in json.loads((folder / "metrics.json").read_text()))


VLMO = ("base", "base_plus", "large")
MARKS = ("VLE", "METER", "VLMo", "ours", "yours")
VALUE = re.compile(r"\s*(?P<key>\w+):.*?\s#\s(?P<comment>.*)")


def marked() -> Iterator[tuple[str, str, str]]:
    """Yield mark, task and option of each value that a file marks as published."""
    for file in FILES:
        for value in filter(None, map(VALUE.match, file.read_text().splitlines())):
            for mark in re.findall(r"(?:^|; )([A-Z]\w+)\b", value["comment"]):
                assert mark in MARKS, f"{name_of(file)}: {value['key']} is marked {mark}"
                yield mark, file.parent.name, value["key"]


def test_each_value_that_is_marked_as_published_has_its_source() -> None:
    lines = (EXPERIMENTS / "SOURCES.md").read_text().splitlines()
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("| ")][1:]
    told, found = {row[:3] for row in rows}, set(marked())
    everywhere = {(mark, key) for mark, task, key in told if task == "*"}
    lacking = {row for row in found if row not in told and (row[0], row[2]) not in everywhere}
    assert lacking == set()
    unused = {row for row in told if row not in found and row[1] != "*"}
    unused |= {("*", *row) for row in everywhere - {(mark, key) for mark, _, key in found}}
    assert unused == set()
    assert all(len(row) == 4 and row[3] for row in rows)


def test_the_shipped_files_are_those_that_the_issue_names() -> None:
    sizes = ("vle_base", "vle_large")
    named = {f"pretrain/{name}.yaml" for name in ("toy", "coco_mini", *sizes)}
    named |= {f"vcr/{name}_{mode}.yaml" for name in ("toy", *sizes) for mode in ("q2a", "qa2r")}
    named |= {f"{task}/{name}.yaml" for task in ("vqa", "nlvr2", "snli_ve") for name in ("toy", *sizes)}
    named |= {
        "retrieval/toy.yaml",
        "retrieval/flickr8k.yaml",
        "nlvr/nlvr.yaml",
        *(f"{task}/vlmo_{size}.yaml" for task in ("pretrain", "vqa", "nlvr2") for size in VLMO),
        *(f"dual_retrieval/vlmo_{size}_{data}.yaml" for size in VLMO for data in ("coco", "flickr30k")),
        "vqa/easy_vqa.yaml",
        "vqa/vqa_rad.yaml",
    }
    assert named <= {name_of(file) for file in FILES}
