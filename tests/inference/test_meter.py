"""Pipelines on a file of METER's, which comes without tokenizer, image settings and names of answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

from tests.factories import dual
from tests.hub.meter_file import ANSWERS, SIZE, meter_weights, swin_weights, write_file
from tests.inference.conftest import TEXTS
from vle_lightning.cli import main
from vle_lightning.encoders.base import CLIP_MEAN, CLIP_STD
from vle_lightning.errors import UserError
from vle_lightning.inference import Processor, pipeline
from vle_lightning.inference.pipelines import bare_processor
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vqa import VQATask

NAMES = ["yes", "no", "two", "red", "blue"]
QUESTION = "Why is the dog behind the blue car?"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WORDS = 300  # at least as many as the tokenizer has


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A byte-level BPE in the files of roberta-base."""
    folder = tmp_path_factory.mktemp("roberta")
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator(TEXTS, vocab_size=280, min_frequency=1, special_tokens=special, show_progress=False)
    bpe.save_model(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    return str(folder)


@pytest.fixture(scope="module")
def vqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("vqa") / "meter.ckpt", meter_weights("vqa_classifier", words=WORDS))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = meter_weights("itm_score", "mlm_score", words=WORDS)
    return write_file(tmp_path_factory.mktemp("pretrain") / "meter.ckpt", weights)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))


def prepared(picture: Image.Image, mean: Any = CLIP_MEAN, std: Any = CLIP_STD) -> Tensor:  # noqa: ANN401 (numbers)
    """Prepare as METER does: the shorter side resized, the middle cut out, normalised; (1, 3, 32, 32)."""
    width = int(SIZE * picture.width / picture.height)
    left = (width - SIZE) // 2
    small = picture.resize((width, SIZE), Image.Resampling.BICUBIC).crop((left, 0, left + SIZE, SIZE))
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
    return ((pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])[None]


def ids_of(tokenizer: str, text: str) -> tuple[Tensor, Tensor]:
    return Processor.prepared(tokenizer, SIZE).tokenize([text])


def test_the_tokenizer_is_robertas(tokenizer: str) -> None:
    ids, mask = Processor.prepared(tokenizer, SIZE).tokenize(["the dog", "a small dog and two people"])
    assert ids[:, 0].tolist() == [0, 0]
    assert ids[1, -1] == 2
    assert ids[0, -1] == 1  # padding
    assert not mask[0, -1]


def test_questions_are_answered_as_by_hand(vqa: Path, tokenizer: str, picture: Image.Image) -> None:
    ask = pipeline("vqa", vqa, tokenizer=tokenizer, answers=NAMES)
    found = ask(image=picture, question=QUESTION)
    task = VQATask.from_pretrained(vqa).eval()
    with torch.no_grad():
        text, image = task.model.encode_text(*ids_of(tokenizer, QUESTION)), task.model.encode_image(prepared(picture))
        wanted = task.head(task.model.fuse(text, image).pooled)[0].softmax(0)
    assert sum(answer["score"] for answer in found) == pytest.approx(1)
    assert [answer["answer"] for answer in found] == [NAMES[number] for number in wanted.argsort(descending=True)]
    scores = torch.tensor([answer["score"] for answer in found])
    torch.testing.assert_close(scores, wanted.sort(descending=True).values, atol=1e-5, rtol=1e-4)


def test_answers_without_names_are_numbered_and_a_list_of_another_length_is_refused(
    vqa: Path, tokenizer: str, picture: Image.Image, tmp_path: Path
) -> None:
    found = pipeline("vqa", vqa, tokenizer=tokenizer)(image=picture, question=QUESTION)
    assert {answer["answer"] for answer in found} == set("01234")
    (tmp_path / "answers.json").write_text(json.dumps(NAMES))
    named = pipeline("vqa", vqa, tokenizer=tokenizer, answers=tmp_path / "answers.json")
    assert [a["answer"] for a in named(image=picture, question=QUESTION)] == [NAMES[int(a["answer"])] for a in found]
    with pytest.raises(UserError, match=f"names 4 answers, its head has {ANSWERS}"):
        pipeline("vqa", vqa, tokenizer=tokenizer, answers=NAMES[:4])
    with pytest.raises(UserError, match="answers must be a list of texts"):
        pipeline("vqa", vqa, tokenizer=tokenizer, answers=[1, 2])  # type: ignore[list-item]
    with pytest.raises(UserError, match="answers: the file cannot be read as JSON"):
        pipeline("vqa", vqa, tokenizer=tokenizer, answers=tmp_path / "nowhere.json")


def test_a_picture_is_prepared_as_meter_does(vqa: Path, tokenizer: str, picture: Image.Image) -> None:
    processor = pipeline("features", vqa, tokenizer=tokenizer).processor
    torch.testing.assert_close(processor.pixels([picture]), prepared(picture), atol=1e-5, rtol=0)


@pytest.mark.parametrize("source", ["best.ckpt", ""])
def test_pictures_of_a_run_are_framed_as_in_its_training(
    source: str, tokenizer: str, picture: Image.Image, tmp_path: Path
) -> None:
    write_file(tmp_path / "best.ckpt", meter_weights("vqa_classifier", words=WORDS))
    data: dict[str, object] = {"tokenizer": "gone", "image_size": SIZE, "pixel_mean": [0.5] * 3, "pixel_std": [0.5] * 3}
    write_run(tmp_path, data)
    squeezed = np.array(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    wanted = (torch.from_numpy(squeezed).permute(2, 0, 1).float() / 255 - 0.5)[None] / 0.5
    torch.testing.assert_close(
        bare_processor(tmp_path / source, tokenizer).pixels([picture]), wanted, atol=1e-5, rtol=0
    )
    write_run(tmp_path, {**data, "framing": "fold"})
    with pytest.raises(UserError, match="trained with data.framing fold"):
        bare_processor(tmp_path / source, tokenizer)


def write_run(folder: Path, data: dict[str, object]) -> None:
    (folder / "config.yaml").write_text(json.dumps({"task": "vqa", "model": {}, "data": data}))


def test_a_swin_has_imagenets_colours_and_the_size_of_its_windows(
    tokenizer: str, picture: Image.Image, tmp_path: Path
) -> None:
    weights = swin_weights("itm_score")
    words = torch.randn(WORDS, 12, generator=torch.Generator().manual_seed(0))
    file = write_file(tmp_path / "meter.ckpt", {**weights, "text_transformer.embeddings.word_embeddings.weight": words})
    match = pipeline("itm", file, tokenizer=tokenizer)
    torch.testing.assert_close(match.processor.pixels([picture]), prepared(picture, *IMAGENET), atol=1e-5, rtol=0)
    assert sum(match(image=picture, text="the dog")["score"]) == pytest.approx(1)


def test_pairs_are_matched_and_words_restored(pretrained: Path, tokenizer: str, picture: Image.Image) -> None:
    result = pipeline("itm", pretrained, tokenizer=tokenizer)(image=picture, text="a small dog")
    task = PretrainTask.from_pretrained(pretrained).eval()
    ids, mask = ids_of(tokenizer, "a small dog")
    with torch.no_grad():
        fused = task.model.fuse(task.model.encode_text(ids, mask), task.model.encode_image(prepared(picture)))
        wanted = task.objectives["itm"].get_submodule("head")(fused.pooled).softmax(-1)[0]
    torch.testing.assert_close(torch.tensor(result["score"]), wanted, atol=1e-5, rtol=1e-4)
    words = pipeline("mlm", pretrained, tokenizer=tokenizer)(image=picture, text="a <mask> dog", top_k=3)
    assert [len(place) for place in words] == [3]
    fill = pipeline("mlm", pretrained, tokenizer=tokenizer)
    assert fill(image=picture, text="a [MASK] dog", top_k=3) == words  # as with the other models
    with pytest.raises(UserError, match=r"the text has no \[MASK\]"):
        fill(image=picture, text="a dog")


def test_features_are_the_encoders_states(pretrained: Path, tokenizer: str, picture: Image.Image) -> None:
    found = pipeline("features", pretrained, tokenizer=tokenizer)(image=picture, text="a small dog")
    model = dual(PretrainTask.from_pretrained(pretrained).model).eval()
    ids, mask = ids_of(tokenizer, "a small dog")
    with torch.no_grad():
        text, image, fused = model.features((ids, mask), prepared(picture))
    assert fused is not None
    wanted = {"text": text, "image": image}
    for name, stream in wanted.items():
        assert stream is not None
        torch.testing.assert_close(torch.from_numpy(found[name]), stream.states[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.from_numpy(found["pooled"]), fused.pooled[0], atol=1e-4, rtol=1e-4)
    assert found["image"].shape == (17, 20)


def test_what_a_bare_file_lacks_is_told_in_one_sentence(vqa: Path, tokenizer: str) -> None:
    with pytest.raises(UserError, match=r"such as METER's or VLMo's, give tokenizer$"):
        pipeline("vqa", vqa)
    with pytest.raises(UserError, match="^processor and tokenizer were given; give one of the two$"):
        pipeline("vqa", vqa, tokenizer=tokenizer, processor=Processor.prepared(tokenizer, SIZE))
    with pytest.raises(UserError, match="tokenizer is 3, a int; give a folder or a hub name"):
        pipeline("vqa", vqa, tokenizer=3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nowhere"):
        pipeline("vqa", vqa, tokenizer="/nowhere")
    with pytest.raises(UserError, match="has no head 'itm_score'"):
        pipeline("itm", vqa, tokenizer=tokenizer)


def test_a_tokenizer_of_more_words_than_the_model_is_refused(tokenizer: str, tmp_path: Path) -> None:
    file = write_file(tmp_path / "meter.ckpt", meter_weights("vqa_classifier", words=200))
    with pytest.raises(UserError, match="ids, the model knows 200"):
        pipeline("vqa", file, tokenizer=tokenizer)


def test_an_export_in_meters_layout_answers_with_the_tokenizer_that_lies_beside_it(
    vqa: Path, tokenizer: str, picture: Image.Image, tmp_path: Path
) -> None:
    VQATask.from_pretrained(vqa).save_pretrained(tmp_path, layout="meter")
    Processor.prepared(tokenizer, SIZE, "centre").save_pretrained(tmp_path)
    wanted = pipeline("vqa", vqa, tokenizer=tokenizer)(image=picture, question=QUESTION)
    assert pipeline("vqa", tmp_path)(image=picture, question=QUESTION) == wanted


def test_ask_takes_tokenizer_and_answers(
    vqa: Path, tokenizer: str, picture: Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture.save(tmp_path / "picture.png")
    (tmp_path / "answers.json").write_text(json.dumps(NAMES))
    command = ["ask", str(tmp_path / "picture.png"), QUESTION, "--model", str(vqa)]
    given = ["--tokenizer", tokenizer, "--answers", str(tmp_path / "answers.json"), "--top_k", "2"]
    assert main([*command, *given]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert answers == pipeline("vqa", vqa, tokenizer=tokenizer, answers=NAMES)(
        image=picture, question=QUESTION, top_k=2
    )
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "give tokenizer" in told
    assert told.count("\n") == 1
