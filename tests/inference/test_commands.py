from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.inference.conftest import ANSWERS
from tests.inference.test_vcr_pipeline import ANNOTATION, METADATA, PICTURE
from vle_lightning.cli import main

Exported = Callable[[str], Path]


@pytest.fixture
def picture(tmp_path: Path) -> str:
    PICTURE.save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def test_ask_prints_answers(exported: Exported, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", picture, "the dog?", "--model", str(exported("vqa")), "--top_k", "2"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 2
    assert answers[0]["answer"] in ANSWERS


def test_match_prints_scores(exported: Exported, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["match", picture, "the dog", "--model", str(exported("pretrain")), "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"score", "match"}


def test_ask_prints_where_the_model_looked(
    exported: Exported, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", picture, "the dog?", "--model", str(exported("vqa")), "--attention"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["answers"][0]["answer"] in ANSWERS
    assert [len(row) for row in result["attention"]] == [6] * 6
    assert 0 < sum(map(sum, result["attention"])) <= 1 + 1e-5  # the rest went to the class token


def test_match_of_several_texts_prints_a_result_each(
    exported: Exported, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["match", picture, "the dog", "a red car", "--model", str(exported("pretrain"))]) == 0
    assert [row.keys() for row in json.loads(capsys.readouterr().out)] == [{"score", "match"}] * 2


def test_fill_prints_words_for_each_mask(exported: Exported, picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fill", picture, "the [MASK] car near [MASK]", "--model", str(exported("pretrain")), "--top_k", "3"]
    assert main(command) == 0
    assert [len(words) for words in json.loads(capsys.readouterr().out)] == [3, 3]


def test_heatmap_writes_a_picture_of_a_readable_size(
    exported: Exported, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "heat.png"
    command = ["heatmap", picture, "the dog", "--out", str(out), "--model", str(exported("pretrain"))]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["picture"] == str(out)
    assert len(result["heatmap"]) == len(result["probabilities"]) == 6
    with Image.open(out) as drawn:
        assert drawn.size == (288, 144)  # of 96 x 48 pixels: three times, to pass 256
    assert main([*command, "--zoom", "1"]) == 0
    with Image.open(out) as drawn:
        assert drawn.size == (96, 48)


def test_vcr_prints_the_choice(
    exported: Exported, picture: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation, metadata = tmp_path / "annotation.json", tmp_path / "metadata.json"
    annotation.write_text(json.dumps(ANNOTATION))
    metadata.write_text(json.dumps({**METADATA, "boxes": [[200, 0, 220, 20]] * 3}))
    command = ["vcr", picture, str(annotation), "--metadata", str(metadata)]
    assert main([*command, "--model", str(exported("vcr-q2a"))]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"] in range(4)
    assert main([*command, "--model", str(exported("vcr-qa2r")), "--task", "qa2r", "--compatible"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == [None] * 4  # NaN, as published


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["ask", "PICTURE", ""], "the question is empty"),
        (["ask", "nowhere.png", "why"], "the picture nowhere.png was not found"),
        (["ask", "PICTURE"], "the following arguments are required: question"),
        (["match", "PICTURE", "the dog", "--top", "3"], "unrecognized arguments: --top 3"),
        (["match", "PICTURE", "the dog"], "has no head 'itm_score'"),
        (["heatmap", "PICTURE", "the dog", "--out", "heat.nothing"], "no picture format has the ending '.nothing'"),
        (["vcr", "PICTURE", "nowhere.json"], "nowhere.json cannot be read as JSON"),
        (["vcr", "PICTURE", "LIST"], "must hold one JSON object, not a list"),
        (["vcr", "PICTURE", "STRANGE"], "strange.json: objects is [1, 2]; give a list with the class"),
        (["vcr", "PICTURE", "FINE", "--metadata", "STRANGE"], "strange.json: boxes[0] is 'abc'; give four numbers"),
        (["vcr", "PICTURE", "FINE"], "the metadata are missing"),
        (["heatmap", "PICTURE", "the dog", "--out", "heat.png", "--zoom", "0"], "zoom is 0; it must be at least 1"),
    ],
)
def test_wrong_input_ends_with_one_sentence(
    command: list[str],
    message: str,
    exported: Exported,
    picture: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "fine.json").write_text(json.dumps(ANNOTATION))
    (tmp_path / "strange.json").write_text(json.dumps({"objects": [1, 2], "boxes": ["abc"]}))
    files = {name.upper(): str(tmp_path / f"{name}.json") for name in ("list", "fine", "strange")}
    model = {"vcr": "vcr-q2a", "heatmap": "pretrain"}.get(command[0], "vqa")
    words = [{"PICTURE": picture, **files}.get(part, part) for part in command]
    assert main([*words, "--model", str(exported(model))]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert message in told.err
    assert told.err.count("\n") == 1
