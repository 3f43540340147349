"""Retrieval by vectors: an index of a folder that is brought up to date, and what is found in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tests.inference.conftest import TEXTS, count_looks
from vle_lightning.cli import main
from vle_lightning.errors import UserError
from vle_lightning.inference import Processor, pipeline
from vle_lightning.inference.index import Changes, Index
from vle_lightning.inference.retrieve import RetrievePipeline
from vle_lightning.tasks.dual_retrieval import DualRetrievalTask

Exported = Callable[[str], Path]
NAMES = ["a.png", "b/c.JPG", "b/d.png", "e.png", "f.webp"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures in two folders, and a note."""
    chance = np.random.default_rng(0)
    for name in NAMES:
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    (tmp_path / "photos" / "note.txt").write_text("no picture")
    return tmp_path / "photos"


def opened(folder: Path, **options: Any) -> RetrievePipeline:  # noqa: ANN401
    found = pipeline("retrieve", folder, device="cpu", **options)
    assert isinstance(found, RetrievePipeline)
    return found


def cosines(folder: Path, photos: Path) -> torch.Tensor:
    """Compare all pictures with TEXTS by the task itself: (pictures, texts)."""
    task, processor = DualRetrievalTask.from_pretrained(folder).eval(), Processor.from_pretrained(folder)
    with torch.no_grad():
        text = task.model.encode_text(*processor.tokenize(TEXTS))
        image = task.model.encode_image(processor.pixels([photos / name for name in NAMES]))
        texts, images = task.vectors(text, image)
    return images @ texts.T


@pytest.mark.parametrize("kind", ["dual", "dual-experts"])
def test_the_best_are_those_of_the_tasks_own_vectors(kind: str, exported: Exported, photos: Path) -> None:
    wanted, retrieve = cosines(exported(kind), photos), opened(exported(kind), batch_size=2)
    index = retrieve.index_images(photos)
    assert index.names == tuple(NAMES)
    assert index.changes == Changes(encoded=5)
    for column, found in enumerate(retrieve(index=index, text=TEXTS, top_k=3)):
        order = wanted[:, column].argsort(descending=True)[:3]
        assert [best["image"] for best in found] == [str(photos / NAMES[row]) for row in order]
        torch.testing.assert_close(torch.tensor([best["score"] for best in found]), wanted[order, column])
    texts = retrieve.index_texts([*TEXTS, TEXTS[0]])
    assert texts.names == tuple(TEXTS)
    best = retrieve(index=texts, image=photos / NAMES[1], top_k=99)
    order = wanted[1].argsort(descending=True)
    assert [found["text"] for found in best] == [TEXTS[row] for row in order]
    torch.testing.assert_close(torch.tensor([found["score"] for found in best]), wanted[1][order])


def test_a_second_call_encodes_only_what_is_new_or_changed(
    exported: Exported, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieve, file = opened(exported("dual"), batch_size=8), tmp_path / "new" / "photos.index"
    first = retrieve.index_images(photos, file)
    looks = count_looks(monkeypatch, retrieve.encoder)
    again = retrieve.index_images(photos, file)
    assert looks == []
    assert again.changes == Changes(kept=5)
    assert torch.equal(again.vectors, first.vectors)
    (photos / "e.png").unlink()
    shutil.copy(photos / "a.png", photos / "new.png")
    Image.new("RGB", (40, 40), "red").save(photos / "b" / "d.png")
    third = retrieve.index_images(photos, file)
    assert looks == [2]
    assert third.changes == Changes(encoded=2, kept=3, dropped=1)
    assert third.names == ("a.png", "b/c.JPG", "b/d.png", "f.webp", "new.png")
    torch.testing.assert_close(third.vectors[4], first.vectors[0])
    assert torch.equal(third.vectors[:2], first.vectors[:2])
    assert not torch.allclose(third.vectors[2], first.vectors[2])
    loaded = retrieve.open_index(file)
    assert torch.equal(loaded.vectors, third.vectors)
    assert (loaded.names, loaded.root, loaded.files.tolist()) == (third.names, third.root, third.files.tolist())
    assert retrieve(index=file, text="the dog") == retrieve(index=third, text="the dog")


def test_of_equal_pictures_the_first_name_comes_first(exported: Exported, photos: Path) -> None:
    for name in ("z.png", "b/b.png", "c.png"):
        shutil.copy(photos / "a.png", photos / name)
    retrieve = opened(exported("dual"), batch_size=1)
    found = retrieve(index=retrieve.index_images(photos), text="the dog", top_k=8)
    score = next(best["score"] for best in found if best["image"].endswith("a.png"))
    equal = [best["image"].removeprefix(f"{photos}/") for best in found if best["score"] == score]
    assert equal == ["a.png", "b/b.png", "c.png", "z.png"]


def test_broken_pictures_are_listed_and_do_not_stop(exported: Exported, photos: Path, tmp_path: Path) -> None:
    (photos / "b" / "broken.png").write_bytes(b"\x89PNG")
    os.symlink("nowhere.png", photos / "gone.png")
    retrieve, file = opened(exported("dual"), batch_size=2), tmp_path / "photos.index"
    index = retrieve.index_images(photos, file)
    assert index.names == tuple(NAMES)
    assert sorted(index.broken) == ["b/broken.png", "gone.png"]
    assert "cannot be read" in index.broken["b/broken.png"]
    assert retrieve.open_index(file).broken == index.broken
    shutil.copy(photos / "a.png", photos / "b" / "broken.png")
    assert "b/broken.png" in retrieve.index_images(photos, file).names
    with pytest.raises(UserError, match="none of 1 pictures can be read, .*gone.png for one: .* was not found"):
        retrieve.index_images([photos / "gone.png"])


def test_a_list_of_files_is_named_as_it_was_given(exported: Exported, photos: Path) -> None:
    retrieve = opened(exported("dual"))
    index = retrieve.index_images([photos / "e.png", str(photos / "a.png"), photos / "e.png"])
    assert [index.place(row) for row in range(len(index))] == [str(photos / "e.png"), str(photos / "a.png")]


def test_an_index_of_another_model_is_refused(exported: Exported, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "photos.index"
    index = opened(exported("dual")).index_images(photos, file)
    other = opened(exported("dual-experts"))
    for call in (
        lambda: other(index=file, text="the dog"),
        lambda: other(index=index, text="the dog"),
        lambda: other.index_images(photos, file),
    ):
        with pytest.raises(UserError, match=rf"was made by a model with the weights {index.model[:12]}, not by this"):
            call()
    again = opened(exported("dual"), dtype="bfloat16")
    assert len(again(index=file, text="the dog")) == 5  # the same weights in another float type


def test_what_cannot_be_indexed_or_asked_is_told(exported: Exported, photos: Path, tmp_path: Path) -> None:
    retrieve, empty, file = opened(exported("dual")), tmp_path / "empty", tmp_path / "photos.index"
    empty.mkdir()
    with pytest.raises(UserError, match=r"the folder .*empty holds no picture \(\.jpg"):
        retrieve.index_images(empty)
    with pytest.raises(UserError, match="there is no folder .*nowhere"):
        retrieve.index_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match="the list of pictures is empty"):
        retrieve.index_images([])
    index = retrieve.index_images(photos, file)
    with pytest.raises(UserError, match="an index of images is asked with one text"):
        retrieve(index=index, image=photos / "a.png")
    with pytest.raises(UserError, match="item 1: the text is empty"):
        retrieve(index=index, text=["the dog", " "])
    with pytest.raises(UserError, match="top_k is 0"):
        retrieve(index=index, text="the dog", top_k=0)
    with pytest.raises(UserError, match="there are no texts to index"):
        retrieve.index_texts([])
    with pytest.raises(UserError, match="text 1: the text is empty"):
        retrieve.index_texts(["the dog", ""])
    with pytest.raises(UserError, match="holds images, not texts"):
        retrieve.index_texts(TEXTS, file)
    with pytest.raises(UserError, match=r"is that of the folder .*photos, not of .*other"):
        retrieve.index_images(shutil.copytree(photos, tmp_path / "other"), file)
    long = opened(exported("dual-experts"))
    with pytest.raises(UserError, match="tokens; the model reads"):
        long(index=long.index_images(photos), text="the dog " * 100)
    with pytest.raises(UserError, match="pretrain has no head 'itc'"):
        pipeline("retrieve", exported("pretrain"))


def test_damaged_files_are_told(exported: Exported, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "photos.index"
    opened(exported("dual")).index_images(photos, file)
    content = file.read_bytes()
    for broken, told in ((content[:-7], "is damaged"), (b"", "is damaged"), (content[:20], "is damaged")):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=told):
            Index.load(file)
    with pytest.raises(UserError, match="there is no index .*nothing"):
        Index.load(tmp_path / "nothing")
    shutil.copy(exported("dual") / "model.safetensors", file)
    with pytest.raises(UserError, match="is not an index of this version"):
        Index.load(file)


def test_names_of_any_bytes_come_back(tmp_path: Path) -> None:
    names = ("plain.png", "ä/日本.png", os.fsdecode(b"\xff.png"), "")
    index = Index("images", "0", names, torch.eye(4), torch.zeros(4, 2, dtype=torch.int64), broken={names[2]: "told"})
    index.save(tmp_path / "index")
    again = Index.load(tmp_path / "index")
    assert (again.names, again.broken) == (names, {names[2]: "told"})


def test_texts_that_are_known_are_not_encoded_again(exported: Exported, tmp_path: Path) -> None:
    retrieve, file = opened(exported("dual")), tmp_path / "texts.index"
    listed = tmp_path / "texts.txt"
    listed.write_text("\n".join(TEXTS[:3]) + "\n\n")
    first = retrieve.index_texts(listed, file)
    second = retrieve.index_texts([TEXTS[4], TEXTS[1], TEXTS[2]], file)
    assert (first.changes, second.changes) == (Changes(encoded=3), Changes(encoded=1, kept=2, dropped=1))
    torch.testing.assert_close(second.vectors[1:], first.vectors[1:])
    assert retrieve.open_index(file).names == second.names


def test_features_have_the_vectors_of_contrast(exported: Exported, photos: Path) -> None:
    for kind in ("dual", "dual-experts"):
        wanted = cosines(exported(kind), photos)
        found = pipeline("features", exported(kind))(image=photos / NAMES[2], text=TEXTS)
        for column, row in enumerate(found):
            assert np.linalg.norm(row["text_vector"]) == pytest.approx(1, abs=1e-5)
            assert row["image_vector"] @ row["text_vector"] == pytest.approx(wanted[2, column].item(), abs=1e-5)
        assert pipeline("features", exported(kind))(text="the dog").keys() == {"text", "text_vector"}


def test_a_checkpoint_with_the_first_way_alone_will_do(exported: Exported, photos: Path, tmp_path: Path) -> None:
    """VLMo's files that were fine-tuned for retrieval have no projections of the vision-language way."""
    folder = shutil.copytree(exported("dual-experts"), tmp_path / "first")
    with safe_open(folder / "model.safetensors", "pt") as content:
        about = content.metadata()
        kept = {name: content.get_tensor(name) for name in content.keys() if ".pair." not in name or "model." in name}  # noqa: SIM118
    save_file(kept, folder / "model.safetensors", about)
    found, wanted = (opened(one).index_images(photos).vectors for one in (folder, exported("dual-experts")))
    assert torch.equal(found, wanted)


def test_the_command_indexes_and_finds(
    exported: Exported, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"")
    command = ["retrieve", "--model", str(exported("dual")), "--index", str(tmp_path / "index"), "--device", "cpu"]
    assert main([*command, "--images", str(photos)]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["size"], made["encoded"], made["kind"]) == (5, 5, "images")
    assert [broken["image"] for broken in made["broken"]] == ["broken.png"]
    assert main([*command, "--images", str(photos), "--text", "the dog", "--top_k", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kept"], found["encoded"], len(found["best"])) == (5, 0, 2)
    assert main([*command, "--text", "the dog", "--top_k", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] == found["best"]
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    texts = ["retrieve", "--model", str(exported("dual")), "--texts", str(tmp_path / "texts.txt"), "--device", "cpu"]
    assert main([*texts, "--image", str(photos / "a.png")]) == 0
    assert len(json.loads(capsys.readouterr().out)["best"]) == len(TEXTS)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--images", "PHOTOS", "--text", "the dog"], "--model is missing"),
        (["--model", "MODEL", "--text", "the dog"], "there is nothing to search"),
        (["--model", "MODEL", "--images", "EMPTY", "--text", "the dog"], "holds no picture"),
        (["--model", "MODEL", "--images", "PHOTOS", "--image", "PHOTOS/a.png"], "is asked with one text"),
        (["--model", "MODEL", "--images", "PHOTOS", "--texts", "x"], "not allowed with argument"),
        (["--model", "MODEL", "--index", "nowhere", "--text", "the dog"], "there is no index nowhere"),
    ],
)
def test_a_wrong_command_ends_with_one_sentence(
    options: list[str],
    told: str,
    exported: Exported,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"PHOTOS": str(photos), "MODEL": str(exported("dual")), "EMPTY": str(tmp_path / "empty")}
    words = [
        option.replace("PHOTOS", names["PHOTOS"]) if "/" in option else names.get(option, option) for option in options
    ]
    assert main(["retrieve", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert told in said.err
    assert said.err.count("\n") == 1
