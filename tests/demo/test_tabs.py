"""The functions behind the tabs, without a browser; and the command beside each result, which gives it again."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from pathlib import Path
from threading import Event

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from tests.demo.conftest import Run
from tests.inference.conftest import ANSWERS
from vle_lightning.demo.ask import ask
from vle_lightning.demo.compare import answer_as
from vle_lightning.demo.fill import fill
from vle_lightning.demo.find import Found, find, redraw, redrawn
from vle_lightning.demo.limits import Limits
from vle_lightning.demo.match import match
from vle_lightning.demo.models import Model, Models
from vle_lightning.demo.page import Answer, Desk, answering, write_result
from vle_lightning.demo.reason import DRAWS, NAMES, TAGS, choose_answer, choose_rationale, click, load_sample
from vle_lightning.demo.search import BEST, Indexes, index_folder, search_pictures, search_texts
from vle_lightning.demo.show import heated
from vle_lightning.demo.tagged import Objects
from vle_lightning.errors import UserError
from vle_lightning.inference.pictures import open_picture


def test_ask_gives_answers_and_where_the_model_looked(desk: Desk, scene: str, run: Run) -> None:
    found = ask(desk, "vqa", scene, "What colour is the car?")
    assert set(found.bars[0]) <= set(ANSWERS)
    assert found.picture is not None
    assert len(found.result["attention"]) == 6
    assert 0 < sum(map(sum, found.result["attention"])) <= 1 + 1e-5
    printed = run(found.command)
    assert printed["answers"][0]["answer"] == found.result["answers"][0]["answer"]
    assert printed["answers"][0]["score"] == pytest.approx(found.result["answers"][0]["score"], abs=1e-5)


def test_the_command_names_what_the_model_was_loaded_with(
    exported: Callable[[str], Path],
    tokenizer_folder: Path,
    desk: Desk,
    scene: str,
    run: Run,
    tmp_path: Path,
) -> None:
    bare, names = tmp_path / "bare", tmp_path / "answers.json"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):  # without tokenizer and image settings
        shutil.copy(exported("vqa") / name, bare)
    names.write_text('["green", "grey", "one", "yes"]', encoding="utf-8")
    model = Model(str(bare), "bare", str(tokenizer_folder), str(names), "cpu", "bfloat16")
    found = ask(replace(desk, models=Models([model])), "bare", scene, "What colour is the car?")
    told = ["--model", str(bare), "--tokenizer", str(tokenizer_folder), "--answers", str(names), "--dtype", "bfloat16"]
    assert shlex.split(found.command)[-8:] == told
    assert run(found.command)["answers"] == found.result["answers"]


def test_find_draws_the_heat_again_at_another_strength(desk: Desk, scene: str, run: Run) -> None:
    found = find(desk, "pretrain", scene, "the red car")
    assert isinstance(found.kept, Found)
    assert "picture" not in found.result
    plain, strong = redraw(found.kept, 0.0, "probabilities"), redraw(found.kept, 1.0, "probabilities")
    assert plain is not None
    assert strong is not None
    assert plain.tobytes() != strong.tobytes()
    assert plain.size == (480, 480)
    assert found.kept.picture.size == (480, 480)
    assert run(found.command)["probabilities"][0] == pytest.approx(found.result["probabilities"][0], abs=1e-5)


def test_a_large_picture_is_kept_at_the_size_that_is_drawn(desk: Desk, tmp_path: Path) -> None:
    large = Image.effect_noise((3000, 1500), 50).convert("RGB")
    large.save(tmp_path / "large.png")
    kept = find(desk, "pretrain", str(tmp_path / "large.png"), "the red car").kept
    assert isinstance(kept, Found)
    assert kept.picture.size == (1024, 512)
    drawn = redraw(kept, 0.5, "probabilities")
    assert drawn is not None
    assert drawn.tobytes() == heated(large, kept.probabilities, kept.view, 0.5).tobytes()


def test_match_ranks_texts(desk: Desk, scene: str, run: Run) -> None:
    found = match(desk, "pretrain", scene, "the red car\ntwo people\nthe dog\nthe dog")
    scores = [row["score"][1] for row in found.result]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert sorted(row["score"][1] for row in run(found.command)) == pytest.approx(sorted(scores), abs=1e-5)


def test_fill_restores_each_mask(desk: Desk, scene: str, run: Run) -> None:
    found = fill(desk, "pretrain", scene, "the [MASK] car near [MASK]")
    assert [len(bars) for bars in found.bars] == [5, 5]
    assert "[MASK]" not in found.result["filled"]
    assert run(found.command)[0][0]["word"] == found.result["words"][0][0]["word"]
    with pytest.raises(UserError, match=r"5 \[MASK\]s; this page takes up to 4"):
        fill(desk, "pretrain", scene, "[MASK] " * 5)


def test_reason_chooses_an_answer_and_then_a_rationale(desk: Desk, run: Run) -> None:
    picture, objects, _, _, _, *texts = load_sample(desk, desk.examples.vcr[0].name)
    assert isinstance(picture, str)
    assert isinstance(objects, Objects)
    written = list(map(str, texts))
    assert written[0] == "where is [0] ?"
    first = choose_answer(desk, "vcr-q2a", picture, objects, *written[:5])
    given = NAMES[1 + first.result["prediction"]]
    second = choose_rationale(desk, "vcr-qa2r", picture, objects, given, *written)
    for found, task in ((first, "q2a"), (second, "qa2r")):
        Path("annotation.json").write_text(write_result(found, 0.1), encoding="utf-8")  # as the page lets one save it
        assert f"--task {task}" in found.command
        assert run(found.command)["score"] == pytest.approx(found.result["score"], abs=1e-5)
    with pytest.raises(UserError, match="No answer is chosen"):
        choose_rationale(desk, "vcr-qa2r", picture, objects, None, *written)


def test_clicks_write_tags_and_draw_boxes(desk: Desk) -> None:
    picture, objects, *_ = load_sample(desk, desk.examples.vcr[0].name)
    assert isinstance(picture, str)
    assert isinstance(objects, Objects)
    texts = ["what is"] + ["no"] * 8

    def at(x: int, y: int) -> gr.SelectData:
        return gr.SelectData(None, {"index": [5 * x, 5 * y], "value": None})  # 96 pixels are shown as 480

    same, _, told, *written = click(desk, at(60, 20), picture, objects, TAGS, "", "question", *texts)
    assert (same, told, written[0]) == (objects, "", "what is [1]")
    _, _, told, *written = click(desk, at(95, 1), picture, objects, TAGS, "", "question", *texts)
    assert "There is no box here" in str(told)
    assert written == texts
    half = click(desk, at(42, 2), picture, objects, DRAWS, "cat", "question", *texts)[0]
    assert isinstance(half, Objects)
    whole = click(desk, at(48, 30), picture, half, DRAWS, "cat", "question", *texts)[0]
    assert isinstance(whole, Objects)
    assert (whole.names[2], whole.boxes[2]) == ("cat", (42, 2, 48, 30))


def test_a_sample_that_cannot_be_read_is_a_sentence(desk: Desk) -> None:
    picture, objects, drawn, told, given, *texts = load_sample(desk, "no sample")
    assert (picture, objects, drawn, given, texts) == (None, Objects(), None, None, [""] * len(NAMES))
    assert told == "**No answer.** There is no such sample: choose one of the list."
    gone = copy(desk.examples)
    gone.vcr = tuple(example._replace(picture="gone.jpg") for example in desk.examples.vcr)
    assert "The picture gone.jpg was not found" in str(load_sample(replace(desk, examples=gone), gone.vcr[0].name)[3])


def test_a_heat_map_that_cannot_be_drawn_is_a_sentence(desk: Desk, scene: str) -> None:
    kept = find(desk, "pretrain", scene, "the red car").kept
    assert isinstance(kept, Found)
    shown, told, *_ = redrawn(desk, kept._replace(view=replace(kept.view, width=0)), 0.5, "probabilities", "{}")
    assert shown is None
    assert str(told).startswith("**No answer.**")


def test_a_heat_map_drawn_again_names_the_command_that_draws_it(
    desk: Desk, scene: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find(desk, "pretrain", scene, "the red car", 0.75)
    facts = json.dumps({"command": found.command, "seconds": 1.0})
    picture, _, shell, result = redrawn(desk, found.kept, 0.4, "heatmap", facts)  # type: ignore[arg-type]
    assert isinstance(picture, Image.Image)
    assert json.loads(str(result)) == {"command": shell, "seconds": 1.0}
    assert picture.info["command"] == shell
    monkeypatch.chdir(tmp_path)
    run(str(shell))
    with Image.open("heat.png") as drawn:
        same = np.asarray(drawn.convert("RGB").resize(picture.size, Image.Resampling.NEAREST), np.int16)
    assert np.abs(same - np.asarray(picture, np.int16)).mean() < 8  # the page's picture is larger
    emptied = redrawn(desk, found.kept, None, "heatmap", facts)[2]  # type: ignore[arg-type]
    assert "--opacity 0.75" in str(emptied)
    assert redrawn(desk, None, 0.4, "heatmap", "") == (gr.skip(),) * 4


def test_search_indexes_a_folder_once(desk: Desk, scene: str, run: Run, tmp_path: Path) -> None:
    cached = replace(desk, cache=tmp_path / "cache")
    folder = str(desk.photos)
    assert index_folder(cached, Indexes(cached), "dual", folder) == "200 pictures: 200 new, 0 known before."
    indexes = Indexes(cached)  # as after a new start
    assert index_folder(cached, indexes, "dual", folder) == "200 pictures: 0 new, 200 known before."
    found = search_pictures(cached, indexes, "dual", folder, "a red car")
    assert len(found.result) == BEST
    assert [row["image"] for row in run(found.command)["best"]] == [row["image"] for row in found.result]
    texts = search_texts(desk, "dual", scene, "a red car\na blue car")
    Path("texts.txt").write_text("a red car\na blue car\n", encoding="utf-8")
    assert [row["text"] for row in run(texts.command)["best"]] == [row["text"] for row in texts.result]


def test_search_reads_no_folder_but_the_one_it_may(desk: Desk, tmp_path: Path) -> None:
    assert "and no other" in index_folder(desk, Indexes(desk), "dual", str(tmp_path))
    free = replace(desk, folders=True)
    assert "holds no picture" in index_folder(free, Indexes(free), "dual", str(tmp_path))
    assert "there is no folder" in index_folder(free, Indexes(free), "dual", str(tmp_path / "none")).lower()
    assert "No folder is named" in index_folder(free, Indexes(free), "dual", " ")
    few = replace(desk, limits=Limits(pictures=9))
    assert "200 pictures; this page searches up to 9" in index_folder(few, Indexes(few), "dual", str(desk.photos))


def test_a_picture_that_has_gone_leaves_the_index(desk: Desk, scene: str, tmp_path: Path) -> None:
    free = replace(desk, folders=True)
    assert desk.photos is not None
    for place in sorted(desk.photos.iterdir())[:12]:
        shutil.copy(place, tmp_path)
    indexes = Indexes(free)
    first = search_pictures(free, indexes, "dual", str(tmp_path), "a red car").result
    Path(first[0]["image"]).unlink()
    Path(first[1]["image"]).write_bytes(b"no picture")
    again = search_pictures(free, indexes, "dual", str(tmp_path), "a red car").result
    assert {row["image"] for row in again} >= {row["image"] for row in first[2:]}
    assert first[0] not in again
    assert first[1] not in again


def test_a_model_answers_while_a_folder_is_indexed(desk: Desk, scene: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, going = Event(), Event()

    def wait(place: object) -> Image.Image:
        opened.set()
        assert going.wait(60)
        return open_picture(place)

    monkeypatch.setattr("vle_lightning.inference.retrieve.open_picture", wait)
    with ThreadPoolExecutor(1) as visitor:
        indexing = visitor.submit(index_folder, desk, Indexes(desk), "dual", str(desk.photos))
        assert opened.wait(60)
        assert search_texts(desk, "dual", scene, "a red car\na dog").result  # while the other one waits
        assert not indexing.done()
        going.set()
        assert indexing.result(60).startswith("200 pictures")


def test_compare_answers_as_the_tab_does(desk: Desk, scene: str) -> None:
    assert answer_as(desk, "Match", "pretrain", scene, "the dog").bars == match(desk, "pretrain", scene, "the dog").bars
    with pytest.raises(UserError, match="vqa has no head for masked language modelling"):
        answer_as(desk, "Fill in", "vqa", scene, "a [MASK]")


def test_what_goes_wrong_becomes_a_sentence(desk: Desk, scene: str) -> None:
    handle = answering(lambda *values: ask(desk, *values), lambda answer: (answer.bars[0],), 1)
    shown, told, shell, result = handle("vqa", scene, "")
    assert (shown, shell, result) == (None, "", "")
    assert told == "**No answer.** The question is empty: type one."
    shown, told, *_ = handle("vqa", scene, "What is it?")
    assert shown
    assert str(told).startswith("Answered by **vqa** in ")

    def fail(*_: object) -> Answer:
        raise ZeroDivisionError("secret")

    assert answering(fail, lambda _: (), 0)()[0] == (
        "**No answer.** An unexpected ZeroDivisionError; the log of the demo has the details."
    )
