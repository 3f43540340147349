"""A run becomes a folder that loads again, in either layout, and starts other runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from datamodules.tokenizers import load_tokenizer
from vle_lightning.cli import main
from vle_lightning.export import MARK
from vle_lightning.inference.processor import Processor
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.classification import ClassificationTask
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.pretrain_images import PretrainImagesTask
from vle_lightning.tasks.vqa import VQATask

ANSWERS = ["yes", "no", "two", "red"]
CLASSES = ["circle", "square"]
VCR = Path(__file__).parents[1] / "experiments" / "vcr" / "toy_q2a.yaml"


def write_run(folder: Path, task: VisionLanguageTask, data: dict[str, object]) -> Path:
    """Write a run folder as a fit does, with a picture size that is not the model's."""
    folder.mkdir(parents=True)
    checkpoint: dict[str, object] = {"state_dict": task.state_dict(), "epoch": 1}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "best.ckpt")
    settings = {"tokenizer": "data/toy/tokenizer", "image_size": 64, **data}
    content = {"task": task.task_name(), "model": {}, "data": settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture(autouse=True)
def _at_the_workplace(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


@pytest.fixture
def vqa(tmp_path: Path) -> Path:
    (tmp_path / "answers.json").write_text(json.dumps(ANSWERS))
    task = VQATask("tiny", answers=len(ANSWERS))
    return write_run(tmp_path / "runs" / "vqa", task, {"answers": str(tmp_path / "answers.json")})


@pytest.fixture
def pretrain(tmp_path: Path) -> Path:
    task = PretrainTask("tiny", classes=len(CLASSES))
    return write_run(tmp_path / "runs" / "pretrain", task, {"classes": CLASSES})


def export(source: Path, target: Path, *options: str) -> int:
    return main(["export", str(source), "--to", str(target), *options])


def weights_of(run: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    return weights


def test_a_run_comes_back_bit_by_bit(vqa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(vqa, tmp_path / "out") == 0
    assert "holds the vqa task" in capsys.readouterr().out
    task = VQATask.from_pretrained(tmp_path / "out")
    assert task.labels == ANSWERS
    assert task.state_dict().keys() == weights_of(vqa).keys()
    assert all(torch.equal(task.state_dict()[key], value) for key, value in weights_of(vqa).items())


def test_the_folder_has_tokenizer_and_image_settings(vqa: Path, tmp_path: Path) -> None:
    export(vqa, tmp_path / "out")
    text = "Is the red circle left of the square?"
    processor = Processor.from_pretrained(tmp_path / "out")
    ids, _ = processor.tokenize([text])
    assert ids[0].tolist() == load_tokenizer("data/toy/tokenizer")(text)["input_ids"]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    assert processor.pixels([picture]).shape == (1, 3, 64, 64)  # squeezed, as in training


def test_a_run_in_the_published_layout(vqa: Path, tmp_path: Path) -> None:
    assert export(vqa, tmp_path / "out", "--format", "vle") == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(config["id2label"].values()) == ANSWERS
    assert config["architectures"] == ["VLEForVQA"]
    # the published code takes pictures of the table's size only: 64 px are 8 x 8 patches and the CLS
    assert config["vision_config"]["image_size"] == 64
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights["vle.vision_model.vision_model.embeddings.position_embedding.weight"].shape == (65, 32)
    assert torch.equal(weights["vqa_classifier.3.bias"], weights_of(vqa)["head.3.bias"])
    settings = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert (settings["size"], settings["do_center_crop"]) == ({"shortest_edge": 64}, True)
    assert settings["image_processor_type"] == "CLIPImageProcessor"
    assert Processor.from_pretrained(tmp_path / "out").pixels([Image.new("RGB", (90, 40))]).shape == (1, 3, 64, 64)


def test_both_layouts_compute_the_same(vqa: Path, tmp_path: Path) -> None:
    export(vqa, tmp_path / "own")
    export(vqa, tmp_path / "vle", "--format", "vle")
    pixels, ids = torch.randn(2, 3, 64, 64), torch.randint(5, 60, (2, 7))
    mask = torch.ones_like(ids, dtype=torch.bool)
    own, vle = (VQATask.from_pretrained(tmp_path / name).eval() for name in ("own", "vle"))
    one, two = (
        t.head(t.model.fuse(t.model.encode_text(ids, mask), t.model.encode_image(pixels)).pooled) for t in (own, vle)
    )
    torch.testing.assert_close(one, two)


def test_what_has_no_place_is_named(pretrain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(pretrain, tmp_path / "vle", "--format", "vle")
    assert "published layout has no place for it: mpc" in capsys.readouterr().out
    export(pretrain, tmp_path / "own")
    task = PretrainTask.from_pretrained(tmp_path / "own")
    assert task.labels == CLASSES
    assert set(task.objectives) == {"mlm", "itm", "mpc", "pbc"}


def test_a_blind_model_has_no_published_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", VQATask("tiny", answers=2, blind="image"), {})
    assert export(run, tmp_path / "vle", "--format", "vle") == 2
    assert "blind=image has no form in VLE's layout" in capsys.readouterr().err
    assert not (tmp_path / "vle").exists()
    assert export(run, tmp_path / "own") == 0
    assert VQATask.from_pretrained(tmp_path / "own").model.blind == "image"


def test_an_export_is_exported_to_the_other_layout_and_back(vqa: Path, tmp_path: Path) -> None:
    export(vqa, tmp_path / "one", "--format", "vle")
    export(tmp_path / "one", tmp_path / "two")
    export(tmp_path / "two", tmp_path / "three", "--format", "vle")
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "spm.model"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "three" / name).read_bytes(), name


def test_a_checkpoint_alone_is_exported_without_tokenizer(
    vqa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (vqa / "best.ckpt").rename(tmp_path / "alone.ckpt")
    assert export(tmp_path / "alone.ckpt", tmp_path / "out") == 0
    assert "has no tokenizer and image settings" in capsys.readouterr().out
    assert VQATask.from_pretrained(tmp_path / "out").options == {"answers": len(ANSWERS)}


@pytest.mark.parametrize("kind", [PretrainImagesTask, ClassificationTask])
def test_a_run_on_images_alone_is_exported_with_image_settings_and_no_tokenizer(
    kind: type[PretrainImagesTask | ClassificationTask], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "runs" / "images", kind("vlmo-tiny", 4), {"tokenizer": None})
    assert export(run, tmp_path / "one") == 0
    assert export(tmp_path / "one", tmp_path / "two") == 0
    for source in (run, tmp_path / "one", tmp_path / "two"):
        processor = Processor.from_pretrained(source)
        assert not processor.reads_texts
        assert processor.pixels([Image.new("RGB", (50, 40))]).shape == (1, 3, 64, 64)


def test_only_an_earlier_export_is_overwritten(vqa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out"
    target.mkdir()
    assert export(vqa, target) == 0  # empty
    (target / "notes.txt").write_text("mine")
    (target / MARK).write_text(json.dumps({"files": ["config.json", "old.bin", "../answers.json"]}))
    (target / "old.bin").touch()
    assert export(vqa, target) == 0
    assert (target / "notes.txt").exists()
    assert not (target / "old.bin").exists()  # of the earlier export
    assert (tmp_path / "answers.json").exists()
    (target / MARK).unlink()
    assert export(vqa, target) == 2
    assert "holds no earlier export" in capsys.readouterr().err
    assert export(vqa, vqa) == 2
    assert "is what shall be exported" in capsys.readouterr().err
    assert export(tmp_path / "nothing", tmp_path / "other") == 2
    assert "RUN: there is no checkpoint at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "the following arguments are required: --to"),
        ([], "the following arguments are required: run, --to"),
        (["RUN", "--to", "out", "--format", "hf"], "argument --format: invalid choice: 'hf'"),
        (["RUN", "--to", "out", "--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_what_a_command_line_lacks_is_said_in_one_line(
    arguments: list[str], message: str, vqa: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *(str(vqa) if part == "RUN" else part for part in arguments)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"error: python -m vle_lightning export: {message}")
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "base"}, "is of the task 'base', which is not known here"),
        ({"options": {"answers": "4"}}, "options: answers = '4': give a whole number"),
        ({"labels": [1]}, r"config.json: labels = [1]: give a list, of each a text or null"),
    ],
)
def test_an_export_that_says_what_cannot_be_is_not_exported(
    change: dict[str, object], message: str, vqa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(vqa, tmp_path / "one")
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    (tmp_path / "one" / "config.json").write_text(json.dumps({**config, **change}))
    assert export(tmp_path / "one", tmp_path / "two") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("layout", [pytest.param("own", marks=pytest.mark.slow), "vle"])
def test_a_fit_starts_from_an_exported_folder_and_says_so(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = PretrainTask("tiny", classes=2)
    run = write_run(tmp_path / "run", task, {"image_size": 48})
    export(run, tmp_path / "out", "--format", layout)
    capsys.readouterr()
    options = {
        "model.init": tmp_path / "out",
        "model.architecture": "tiny",
        "run_root": tmp_path,
        "trainer.max_steps": 1,
        "trainer.limit_val_batches": 1,
        "data.workers": 0,
        "data.batch_size": 4,
        "data.global_batch_size": 4,
    }
    words = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    assert main(["fit", "--config", str(VCR), *words]) == 0
    count = sum(value.numel() for value in task.model.state_dict().values())
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"model.init: loaded {count:,} parameters in ")
    assert f"from {tmp_path / 'out'}; newly made: vcr_q2a_logit; left out " in first


def test_the_card_has_the_scores_of_the_run_and_a_snippet_that_runs(vqa: Path, tmp_path: Path) -> None:
    (vqa / "metrics.json").write_text(json.dumps({"val/vqa_accuracy": 0.625}))
    assert export(vqa, tmp_path / "out", "--license", "mit") == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert [result.metric_value for result in card.data.eval_results] == [0.625]
    assert f"{sum(value.numel() for value in weights_of(vqa).values()):,} parameters" in card.text
    Image.new("RGB", (64, 64)).save(tmp_path / "cat.jpg")
    snippet = card.text.split("```python\n")[1].split("```")[0].replace("print(", "found = (")
    found: dict[str, Any] = {}
    exec(snippet.replace('"out"', repr(str(tmp_path / "out"))).replace("cat.jpg", str(tmp_path / "cat.jpg")), found)
    assert {row["answer"] for row in found["found"]} == set(ANSWERS)


def test_a_card_by_hand_is_kept(vqa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = tmp_path / "out" / "README.md"
    export(vqa, tmp_path / "out")
    made = card.read_text()
    export(vqa, tmp_path / "out")
    assert card.read_text() == made
    assert "by hand" not in capsys.readouterr().out.replace(str(tmp_path), "")
    card.write_text(made + "My notes.\n")
    for _ in range(2):
        assert export(vqa, tmp_path / "out") == 0
        assert card.read_text() == made + "My notes.\n"
        assert "README.md was written by hand and is kept" in capsys.readouterr().out
