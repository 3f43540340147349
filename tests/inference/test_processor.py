from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.inference.conftest import SIZE, TEXTS
from vle_lightning.errors import UserError
from vle_lightning.inference import Processor


@pytest.fixture(scope="session")
def processor(tokenizer_folder: Path) -> Processor:
    return Processor.prepared(str(tokenizer_folder), SIZE)


@pytest.fixture
def saved(processor: Processor, tmp_path: Path) -> Path:
    processor.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_texts_are_padded_on_the_right_and_cut_only_when_asked(processor: Processor) -> None:
    input_ids, mask = processor.tokenize(["the dog", "Alex and Casey sit near the red chair."])
    assert input_ids.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert mask[0].tolist() == [True] * 4 + [False] * (mask.shape[1] - 4)
    assert input_ids[0, 4:].eq(0).all()
    assert processor.tokenize(["Alex and Casey sit near the red chair."], max_length=5)[0].shape == (1, 5)


def test_pairs_stand_between_separators(processor: Processor) -> None:
    pair = processor.tokenize(["the dog"], ["the car"])[0][0].tolist()
    first, second = (processor.tokenize([text])[0][0].tolist() for text in ("the dog", "the car"))
    assert pair == first + second[1:]


def test_pixels_are_normalised_as_clip_does(processor: Processor) -> None:
    pixels = processor.pixels([Image.new("RGB", (SIZE, SIZE), (255, 0, 51))])
    wanted = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (0.2 - 0.40821073) / 0.27577711]
    assert pixels.shape == (1, 3, SIZE, SIZE)
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor(wanted))


def test_transparency_is_left_out_of_account(processor: Processor) -> None:
    colour = (200, 30, 60)
    for mode, clear in (("RGBA", (*colour, 0)), ("RGB", colour)):
        pixels = processor.pixels([Image.new(mode, (SIZE, SIZE), clear)])
        assert torch.equal(pixels, processor.pixels([Image.new("RGB", (SIZE, SIZE), colour)]))


def test_a_saved_processor_comes_back_as_it_was(processor: Processor, saved: Path) -> None:
    (saved / "config.json").write_text('{"format": "vle_lightning"}')  # the model's
    back = Processor.from_pretrained(saved)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 70, 3), dtype=np.uint8))
    for ours, theirs in zip(processor.tokenize(TEXTS), back.tokenize(TEXTS), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(processor.pixels([picture]), back.pixels([picture]))
    files = {file.name: file.read_bytes() for file in saved.iterdir()}
    back.save_pretrained(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == files


def test_the_class_of_the_tokenizer_is_written_where_only_the_models_configuration_told_it(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    source = shutil.copytree(tokenizer_folder, tmp_path / "source")
    (source / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    Processor.prepared(str(source), SIZE).save_pretrained(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert settings == {"do_lower_case": False, "tokenizer_class": "DebertaV2Tokenizer"}
    back = Processor.from_pretrained(tmp_path / "saved")
    assert back.decode(back.tokenize(["the dog"])[0][0].tolist()) == "[CLS] the dog[SEP]"


def test_text_is_written_with_the_spaces_of_the_published_tokenizer(processor: Processor) -> None:
    ids = processor.tokenize(["Why is the dog ?"])[0][0].tolist()
    assert processor.decode(ids) == "[CLS] Why is the dog?[SEP]"


def test_a_run_folder_names_tokenizer_and_size(tokenizer_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "checkpoints" / "run"
    run.mkdir(parents=True)
    shutil.copytree(tokenizer_folder, tmp_path / "data" / "tokenizer")
    settings = "task: vqa\nmodel: {}\ndata: {tokenizer: data/tokenizer, image_size: 24}\n"
    (run / "config.yaml").write_text(settings)
    (run / "best.ckpt").touch()
    for source in (run, run / "best.ckpt"):
        assert Processor.from_pretrained(source).pixels([Image.new("L", (9, 5))]).shape == (1, 3, 24, 24)
    (run / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"best\.ckpt: there is no config\.yaml beside it"):
        Processor.from_pretrained(run / "best.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preprocessor_config.json": None}, "has no preprocessor_config.json"),
        ({"preprocessor_config.json": "{"}, "cannot be read as image settings"),
        ({"preprocessor_config.json": '{"image_processor_type": "ViTImageProcessor"}'}, "is for ViTImageProcessor"),
        ({"spm.model": None}, "holds none of spm.model"),
    ],
)
def test_what_is_missing_or_foreign_is_named(saved: Path, change: dict[str, str | None], message: str) -> None:
    for name, content in change.items():
        if content is None:
            (saved / name).unlink()
        else:
            (saved / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Processor.from_pretrained(saved)


def test_the_view_is_the_center_crop_of_the_resized_picture(saved: Path) -> None:
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
    }
    (saved / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = Processor.from_pretrained(saved)
    view = processor.view((70, 40))  # resized to 56 x 32: 12 columns are cut off on each side
    assert (view.width, view.height, view.x0, view.y0, view.x1, view.y1) == (56, 32, 12, 0, 44, 32)
    striped = np.zeros((40, 70, 3), dtype=np.uint8)
    striped[:, 12:58] = 255  # the view is columns 15 to 55, and resizing reads two beyond
    assert processor.pixels([striped]).min() > 1.9


def test_pictures_that_stay_of_different_sizes_are_refused(saved: Path) -> None:
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "do_center_crop": False,
    }
    (saved / "preprocessor_config.json").write_text(json.dumps(settings))
    processor = Processor.from_pretrained(saved)
    assert processor.pixels([Image.new("RGB", (64, 32))]).shape == (1, 3, 32, 64)
    with pytest.raises(UserError, match="one by one"):
        processor.pixels([Image.new("RGB", (64, 32)), Image.new("RGB", (32, 32))])


def test_the_published_tokenizer_is_matched_in_all_that_was_recorded(fixtures: Path) -> None:
    folder = fixtures / "vle_preprocess"
    processor = Processor.from_pretrained(folder)
    recorded = json.loads((folder / "cases" / "tokenizer.json").read_text())
    for case in recorded["single"]:
        ids = processor.tokenize([case["text"]])[0][0].tolist()
        assert ids == case["input_ids"]
        assert processor.tokenizer.tokenize(case["text"]) == case["tokens"]
        assert processor.decode(ids) == case["decode"]
    pair = recorded["pair"]
    assert processor.tokenize([pair["text"]], [pair["pair"]])[0][0].tolist() == pair["input_ids"]
    cut = recorded["truncate"]
    assert processor.tokenize([cut["text"]], max_length=cut["max_length"])[0][0].tolist() == cut["input_ids"]


def test_the_published_pixels_are_matched_to_the_last_bit(fixtures: Path) -> None:
    folder = fixtures / "vle_preprocess"
    processor = Processor.from_pretrained(folder)
    files = json.loads((folder / "cases" / "image_processor.json").read_text())["files"]
    recorded = load_file(folder / "cases" / "image_processor.safetensors")
    for name, file in files.items():
        assert torch.equal(processor.pixels([folder / file]), recorded[f"output.{name}"])
    batch = load_file(folder / "cases" / "processor_batch.safetensors")
    given = json.loads((folder / "cases" / "processor_batch.json").read_text())
    input_ids, mask = processor.tokenize(given["text"])
    assert torch.equal(input_ids, batch["output.input_ids"])
    assert torch.equal(mask.long(), batch["output.attention_mask"])
    assert torch.equal(processor.pixels([folder / file for file in given["images"]]), batch["output.pixel_values"])
