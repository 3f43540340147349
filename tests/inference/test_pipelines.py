from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.factories import dual
from tests.inference.conftest import ANSWERS, SIZE, count_looks
from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import from_pretrained
from vle_lightning.inference import Processor, pipeline
from vle_lightning.inference.kinds import ITMPipeline, MLMPipeline, PBCPipeline, VQAPipeline
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vqa import VQATask

Exported = Callable[[str], Path]
QUESTIONS = ["Why is the dog behind the blue car?", "the dog"]
CHANCE = np.random.default_rng(0)
PICTURES = [Image.fromarray(CHANCE.integers(0, 256, (30, 60, 3), dtype=np.uint8)) for _ in range(3)]


def scores(result: Any) -> torch.Tensor:  # noqa: ANN401 (a pipeline's result)
    return torch.tensor([answer["score"] for answer in result])


def logits_of(folder: Path, picture: Image.Image, question: str) -> torch.Tensor:
    """Run the task's own parts by hand, on one pair."""
    task, processor = VQATask.from_pretrained(folder).eval(), Processor.from_pretrained(folder)
    with torch.no_grad():
        text = task.model.encode_text(*processor.tokenize([question]))
        logits: torch.Tensor = task.head(
            task.model.fuse(text, task.model.encode_image(processor.pixels([picture]))).pooled
        )
    return logits[0]


def test_vqa_gives_the_best_answers_by_name(exported: Exported) -> None:
    wanted = logits_of(exported("vqa"), PICTURES[0], QUESTIONS[0]).softmax(0)
    answers = pipeline("vqa", exported("vqa"))(image=PICTURES[0], question=QUESTIONS[0], top_k=3)
    order = wanted.argsort(descending=True)[:3]
    assert [answer["answer"] for answer in answers] == [ANSWERS[number] for number in order]
    torch.testing.assert_close(scores(answers), wanted[order])


def test_vqa_watches_where_each_question_of_a_batch_looks(exported: Exported) -> None:
    ask = pipeline("vqa", exported("vqa"))
    assert isinstance(ask, VQAPipeline)
    together = ask(image=PICTURES[0], question=QUESTIONS, attention=True)
    for question, found in zip(QUESTIONS, together, strict=True):
        with ask.encoder.watch() as weights:
            answers = ask(image=PICTURES[0], question=question)
        torch.testing.assert_close(scores(found["answers"]), scores(answers))
        pooled = weights[0][0, :, 0].mean(0)  # of all heads; the class token first, then the patches row by row
        torch.testing.assert_close(torch.tensor(found["attention"]).flatten(), pooled[1 : 1 + 36])


def test_a_text_longer_than_the_positions_of_a_model_is_refused(exported: Exported) -> None:
    match = pipeline("retrieve", exported("dual-experts"))
    most = match.encoder.max_tokens
    with pytest.raises(UserError, match=f"the model reads {most}: shorten it"):
        match.tokenize(["the dog", "the dog " * most])
    assert match.tokenize(["the dog"])[0].shape[1] < most


def test_a_batch_gives_what_single_items_give(exported: Exported) -> None:
    ask = pipeline("vqa", exported("vqa"), batch_size=2)
    together = ask(image=PICTURES, question=[*QUESTIONS, "a small dog"], top_k=9)
    for result, picture, question in zip(together, PICTURES, [*QUESTIONS, "a small dog"], strict=True):
        assert len(result) == len(ANSWERS)
        torch.testing.assert_close(scores(result), scores(ask(image=picture, question=question, top_k=9)))


def test_lists_dictionaries_and_streams_agree(exported: Exported) -> None:
    ask = pipeline("vqa", exported("vqa"))
    wanted = ask(image=PICTURES[:2], question=QUESTIONS)
    items = [{"image": picture, "question": question} for picture, question in zip(PICTURES, QUESTIONS, strict=False)]
    assert ask(items) == wanted
    stream = ask(item for item in items)
    assert isinstance(stream, Iterator)
    assert list(stream) == wanted
    assert list(ask(image=iter(PICTURES[:2]), question=QUESTIONS)) == wanted


def test_a_picture_that_several_texts_share_is_encoded_once(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = pipeline("itm", exported("pretrain"))
    rows = count_looks(monkeypatch, ask.encoder)
    ask(image=PICTURES[0], text=["the dog", "the car", "Alex"])
    assert rows == [1]


def test_what_is_wrong_with_an_item_is_told_with_its_number(exported: Exported, tmp_path: Path) -> None:
    ask = pipeline("vqa", exported("vqa"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"item 1: the picture .*broken\.png cannot be read"):
        ask(image=[PICTURES[0], broken], question="the dog")
    with pytest.raises(UserError, match="item 2: the question is empty"):
        ask(image=PICTURES[0], question=["the dog", "the car", "  "])
    with pytest.raises(UserError, match="^the question is missing"):
        ask(image=PICTURES[0])
    with pytest.raises(UserError, match="item 0: the image is missing"):
        ask(question=["the dog"])
    with pytest.raises(UserError, match="top_k is 0"):
        ask(image=PICTURES[0], question="the dog", top_k=0)


def test_answers_without_names_are_numbered(exported: Exported, tmp_path: Path) -> None:
    VQATask("tiny", answers=3).save_pretrained(tmp_path)
    ask = pipeline("vqa", tmp_path, processor=exported("vqa"))
    assert {answer["answer"] for answer in ask(image=PICTURES[0], question="the dog")} == {"0", "1", "2"}


def test_a_run_folder_names_its_answers(exported: Exported, tokenizer_folder: Path, tmp_path: Path) -> None:
    settings = {"tokenizer": str(tokenizer_folder), "image_size": SIZE, "answers": str(tmp_path / "answers.json")}
    (tmp_path / "config.yaml").write_text(json.dumps({"task": "vqa", "model": {}, "data": settings}))
    (tmp_path / "answers.json").write_text(json.dumps(["w", "x", "y", "z"]))
    task = VQATask.from_pretrained(exported("vqa"))
    checkpoint: dict[str, object] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "best.ckpt")
    wanted = pipeline("vqa", exported("vqa"))(image=PICTURES[0], question="the dog", top_k=1)
    for source in (tmp_path, tmp_path / "best.ckpt"):
        found = pipeline("vqa", source)(image=PICTURES[0], question="the dog", top_k=1)
        assert found == [{**wanted[0], "answer": "wxyz"[ANSWERS.index(wanted[0]["answer"])]}]
    (tmp_path / "answers.json").write_text(json.dumps(["w"]))
    with pytest.raises(UserError, match="names 1 answers, its head has 4"):
        pipeline("vqa", tmp_path)


def test_itm_says_no_and_yes(exported: Exported) -> None:
    results = pipeline("itm", exported("pretrain"))(image=PICTURES, text="the dog")
    for result in results:
        assert sum(result["score"]) == pytest.approx(1)
        assert result["match"] is (result["score"][1] > 0.5)


def test_pbc_gives_rows_of_patches_and_a_drawing_of_the_pictures_size(exported: Exported) -> None:
    result = pipeline("pbc", exported("pretrain"))(image=PICTURES[0], text="the dog", zoom=2)
    probabilities, heat = np.array(result["probabilities"]), np.array(result["heatmap"])
    assert probabilities.shape == heat.shape == (6, 6)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert heat.sum() == pytest.approx(1)
    assert result["picture"].size == (120, 60)
    published = pipeline("pbc", exported("pretrain"))(image=PICTURES[0], text="the dog", draw="heatmap", zoom=2)
    assert published["heatmap"] == result["heatmap"]
    assert published["picture"].tobytes() != result["picture"].tobytes()
    with pytest.raises(UserError, match="draw is 'all'; choose probabilities or heatmap"):
        pipeline("pbc", exported("pretrain"))(image=PICTURES[0], text="the dog", draw="all")


def test_mlm_gives_words_for_every_mask_of_every_text(exported: Exported) -> None:
    fill = pipeline("mlm", exported("pretrain"))
    texts = ["the [MASK] behind [MASK]", "a small [MASK]"]
    results = fill(image=PICTURES[:2], text=texts, top_k=4)
    assert [[len(words) for words in result] for result in results] == [[4, 4], [4]]
    alone = fill(image=PICTURES[1], text=texts[1], top_k=4)
    assert [word["word"] for word in alone[0]] == [word["word"] for word in results[1][0]]
    assert all(not word["word"].startswith("\u2581") for word in alone[0])
    torch.testing.assert_close(scores(alone[0]), scores(results[1][0]))
    with pytest.raises(UserError, match=r"item 1: the text has no \[MASK\]: 'the dog'"):
        fill(image=PICTURES[0], text=["a [MASK]", "the dog"])


def test_features_are_the_states_of_towers_and_fusion(exported: Exported) -> None:
    folder = exported("vqa")
    encoder, processor = dual(from_pretrained(folder)[0]).eval(), Processor.from_pretrained(folder)
    ids, mask = processor.tokenize(["the dog"])
    with torch.no_grad():
        text, image = encoder.text(ids, mask), encoder.image(processor.pixels([PICTURES[0]]))
        fused = encoder.fuse(encoder.encode_text(ids, mask), encoder.encode_image(processor.pixels([PICTURES[0]])))
    features = pipeline("features", folder)
    both = features(image=PICTURES[0], text=["the dog", "Why is the dog behind the blue car?"])[0]
    wanted = {
        "text": text.states[0],
        "image": image.states[0],
        "fused_text": fused.text[0],
        "fused_image": fused.image[0],
        "pooled": fused.pooled[0],
    }
    assert both.keys() == wanted.keys()
    for name, states in wanted.items():
        torch.testing.assert_close(torch.from_numpy(both[name]), states, atol=1e-5, rtol=1e-5)
    assert features(text="the dog").keys() == {"text"}
    assert features(image=PICTURES[:1])[0].keys() == {"image"}
    with pytest.raises(UserError, match="ask for these apart"):
        features([{"text": "the dog"}, {"image": PICTURES[0]}])
    with pytest.raises(UserError, match="neither image nor text"):
        features([{}])


def test_a_model_runs_in_a_shorter_float_type(exported: Exported) -> None:
    exact, rough = (
        pipeline("itm", exported("pretrain"), device="cpu", dtype=dtype)(image=PICTURES[0], text="the dog")["score"]
        for dtype in ("float32", torch.bfloat16)
    )
    assert rough != exact
    assert rough == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("kind", ["itm", "pbc", "mlm", "vcr-q2a", "vcr-qa2r"])
def test_a_source_without_the_head_is_refused(kind: str, exported: Exported) -> None:
    with pytest.raises(UserError, match="vqa has no head '"):
        pipeline(kind, exported("vqa"))


def test_what_cannot_run_is_told(exported: Exported, tmp_path: Path) -> None:
    folder = exported("vqa")
    with pytest.raises(UserError, match="there is no pipeline 'vga'; choose one of vqa, itm"):
        pipeline("vga", folder)
    with pytest.raises(UserError, match="there is no pipeline 3"):
        pipeline(3, folder)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="source is None, a NoneType; give a folder"):
        pipeline("vqa", None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="processor is 3, a int"):
        pipeline("vqa", folder, processor=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="batch_size is '8', a str"):
        pipeline("vqa", folder, batch_size="8")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="device nowhere"):
        pipeline("vqa", folder, device="nowhere")
    with pytest.raises(UserError, match="dtype int64 is not a float type"):
        pipeline("vqa", folder, dtype="int64")
    with pytest.raises(UserError, match="nothing"):
        pipeline("vqa", tmp_path / "nothing")


def test_a_tokenizer_of_a_larger_model_is_refused(exported: Exported, tmp_path: Path) -> None:
    task = PretrainTask.from_pretrained(exported("pretrain"))
    config = dual(task.model).config
    small = replace(config, text=replace(config.text, vocab_size=20))
    VQATask(small, answers=2).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="ids, the model knows 20"):
        pipeline("vqa", tmp_path, processor=exported("vqa"))


def test_the_published_pipelines_are_matched(fixtures: Path) -> None:
    folder = fixtures / "vle_preprocess"
    recorded = json.loads((folder / "cases" / "pipelines.json").read_text())
    processor = Processor.from_pretrained(folder)
    vqa, itm, pbc = recorded["vqa"], recorded["itm"], recorded["pbc"]
    answers = pipeline("vqa", fixtures / "vle_vqa", processor=processor)(
        image=folder / vqa["image"], question=vqa["question"], top_k=vqa["top_k"]
    )
    assert [answer["answer"] for answer in answers] == [answer["answer"] for answer in vqa["output"]]
    torch.testing.assert_close(scores(answers), scores(vqa["output"]))
    pair = pipeline("itm", fixtures / "vle_pretrain", processor=processor)(
        image=folder / itm["image"], text=itm["text"]
    )
    assert str(pair["match"]) == itm["output"]["match"]
    assert pair["score"] == pytest.approx(itm["output"]["score"], abs=2e-6)
    heat = pipeline("pbc", fixtures / "vle_pretrain", processor=processor)(
        image=folder / pbc["image"], text=pbc["text"]
    )
    np.testing.assert_allclose(np.ravel(heat["probabilities"]), np.array(pbc["score"])[:, 1], atol=2e-6)
    np.testing.assert_allclose(heat["heatmap"], pbc["heatmap"], atol=2e-6)
    assert list(heat["picture"].size) == pbc["output_image_size"]


def test_answers_are_never_nan(exported: Exported) -> None:
    match = pipeline("itm", exported("pretrain"))
    with torch.no_grad():
        dual(match.encoder).image_projection.weight.fill_(3e38)  # finite, and overflows
    with pytest.raises(UserError, match="computes no finite numbers in torch.float32"):
        match(image=PICTURES[0], text="a small dog")


@pytest.mark.parametrize("kind", ["vqa", "itm", "pbc", "mlm"])
def test_a_head_that_overflows_gives_no_answer(kind: str, exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = pipeline(kind, exported("vqa" if kind == "vqa" else "pretrain"))
    owner: Any
    if isinstance(answer, MLMPipeline):
        owner, name = answer.objective, "logits"
    else:
        assert isinstance(answer, VQAPipeline | ITMPipeline | PBCPipeline)
        owner, name = answer.task.head if isinstance(answer, VQAPipeline) else answer.head, "forward"
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given: original(*given) * float("inf"))
    asked: dict[str, Any] = {"image": PICTURES[0]}
    asked["question" if kind == "vqa" else "text"] = "a small [MASK]"
    with pytest.raises(UserError, match="computes no finite numbers in torch.float32"):
        answer(**asked)


@pytest.mark.parametrize("given", [("image",), ("text",), ("image", "text")])
def test_features_are_never_nan(given: tuple[str, ...], exported: Exported) -> None:
    features = pipeline("features", exported("pretrain"))
    encoder = dual(features.encoder)
    with torch.no_grad():
        for tower in (encoder.image, encoder.text):
            for weight in tower.parameters():
                weight.fill_(3e38)  # finite, and overflows
    asked = {"image": PICTURES[0], "text": "a small dog"}
    with pytest.raises(UserError, match="computes no finite numbers in torch.float32"):
        features(**{name: asked[name] for name in given})
