"""Pipelines on a file of VLMo's, which comes without tokenizer, image settings and names of answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.hub.vlmo_file import SIZE, TEXTS, WIDTH, vlmo_weights, write_file
from vle_lightning.errors import UserError
from vle_lightning.inference import Processor, pipeline
from vle_lightning.inference.retrieve import RetrievePipeline
from vle_lightning.tasks.vqa import VQATask

NAMES = ["yes", "no", "two", "red", "blue"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "the", "dog", "small", "blue", "car", "a", "?"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A WordPiece in the files of bert-base-uncased."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return str(folder)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))


def prepared(picture: Image.Image) -> Tensor:
    """Prepare as VLMo does: all of the picture squeezed into the square, mean and deviation 0.5; (1, 3, 32, 32)."""
    small = picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255 - 0.5)[None] / 0.5


def test_questions_are_answered_as_by_hand(tokenizer: str, picture: Image.Image, tmp_path: Path) -> None:
    file = write_file(tmp_path / "vlmo.pt", vlmo_weights("vqa_classifier"))
    ask = pipeline("vqa", file, tokenizer=tokenizer, answers=NAMES)
    torch.testing.assert_close(ask.processor.pixels([picture]), prepared(picture), atol=1e-5, rtol=0)
    found = ask(image=picture, question="Is the dog small?")
    task = VQATask.from_pretrained(file).eval()
    ids, mask = Processor.prepared(tokenizer, SIZE).tokenize(["Is the dog small?"])
    assert ids.tolist() == [[2, 5, 6, 7, 8, 12, 3]]
    with torch.no_grad():
        text, image = task.model.encode_text(ids, mask), task.model.encode_image(prepared(picture))
        wanted = task.head(task.model.fuse(text, image).pooled)[0].softmax(0)
    assert [answer["answer"] for answer in found] == [NAMES[number] for number in wanted.argsort(descending=True)]
    scores = torch.tensor([answer["score"] for answer in found])
    torch.testing.assert_close(scores, wanted.sort(descending=True).values, atol=1e-5, rtol=1e-4)


def test_a_file_of_pretraining_matches_restores_and_gives_features(
    tokenizer: str, picture: Image.Image, tmp_path: Path
) -> None:
    heads = ("itm_score", "mlm_score", "itc", "itc_vl")
    file = write_file(tmp_path / "vlmo.pt", vlmo_weights(*heads))
    match = pipeline("itm", file, tokenizer=tokenizer)(image=picture, text="a small dog")
    assert sum(match["score"]) == pytest.approx(1)
    words = pipeline("mlm", file, tokenizer=tokenizer)(image=picture, text="a [MASK] dog", top_k=3)
    assert [len(place) for place in words] == [3]
    found = pipeline("features", file, tokenizer=tokenizer)(image=picture, text="a small dog")
    assert (found["image"].shape, found["text"].shape) == ((17, WIDTH), (5, WIDTH))
    assert np.linalg.norm(found["image_vector"]) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="has no head 'vqa_classifier'"):
        pipeline("vqa", file, tokenizer=tokenizer)


@pytest.mark.parametrize("heads", [("itc",), ("itc", "itc_vl")])
def test_pictures_are_found_by_a_file_with_one_contrast_or_two(
    heads: tuple[str, ...], tokenizer: str, picture: Image.Image, tmp_path: Path
) -> None:
    file = write_file(tmp_path / "vlmo.pt", vlmo_weights(*heads))
    find = pipeline("retrieve", file, tokenizer=tokenizer)
    assert isinstance(find, RetrievePipeline)
    picture.save(tmp_path / "a.png")
    picture.rotate(90).save(tmp_path / "b.png")
    index = find.index_images([tmp_path / "a.png", tmp_path / "b.png"])
    best = find(index=index, text="a small dog")
    assert len(best) == 2
    assert best[0]["score"] >= best[1]["score"]


def test_a_text_that_is_too_long_is_one_sentence(tokenizer: str, picture: Image.Image, tmp_path: Path) -> None:
    file = write_file(tmp_path / "vlmo.pt", vlmo_weights("itm_score", relative=False))
    match = pipeline("itm", file, tokenizer=tokenizer)
    assert match(image=picture, text=" ".join(["dog"] * (TEXTS - 2)))
    with pytest.raises(UserError, match=f"has {TEXTS + 1} tokens; the model reads {TEXTS}: shorten it$"):
        match(image=picture, text=" ".join(["dog"] * (TEXTS - 1)))


def test_an_export_answers_with_the_tokenizer_that_lies_beside_it(
    tokenizer: str, picture: Image.Image, tmp_path: Path
) -> None:
    file = write_file(tmp_path / "vlmo.pt", vlmo_weights("vqa_classifier"))
    folder = tmp_path / "export"
    VQATask.from_pretrained(file).save_pretrained(folder, layout="vlmo")
    ask = pipeline("vqa", file, tokenizer=tokenizer)
    ask.processor.save_pretrained(folder)
    question = "is the car blue?"
    assert pipeline("vqa", folder)(image=picture, question=question) == ask(image=picture, question=question)
