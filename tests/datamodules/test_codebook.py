"""Codebooks of patches: k-means, codes, files; hidden patches and codes in batches."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import Tensor

from datamodules.codebook import PatchCodebook, cluster, main, open_codebook, patches_of, write_codebook
from datamodules.masking import draw_patches
from datamodules.pretrain import PretrainDataModule
from datamodules.transforms import normalise
from tests.datamodules.shard_factory import pretrain_module
from vle_lightning.batch import IGNORED, PretrainBatch

HALF = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Quarters:
    """Codes by the brightness of the upper left pixel of patches of 8 pixels."""

    codes = 4

    def encode(self, pixels: Tensor) -> Tensor:
        return (pixels[:, 0, ::8, ::8].flatten(1) > 0).long()


class Beyond(Quarters):
    codes = 1


class Raises:
    def __init__(self) -> None:
        raise RuntimeError("no luck")


class NoCodebook:
    """Has no codes."""


def batches(module: PretrainDataModule, stage: str = "fit") -> list[PretrainBatch]:
    module.setup(stage)
    return list(module.train_dataloader() if stage == "fit" else module.val_dataloader())


def test_patches_lie_row_by_row() -> None:
    image = torch.arange(3 * 4 * 4, dtype=torch.uint8).view(3, 4, 4)
    patches = patches_of([image, image + 1], 2)
    assert patches.shape == (8, 12)
    assert patches[1].tolist() == [2, 3, 6, 7, 18, 19, 22, 23, 34, 35, 38, 39]
    assert (patches[4:] == patches[:4] + 1).all()


def test_clusters_are_found_and_centred() -> None:
    rng = np.random.default_rng(0)
    middles = rng.integers(20, 230, (5, 12))
    offsets = rng.integers(-3, 4, (40, 12))
    offsets = np.concatenate([offsets, -offsets])  # so that the mean is the middle
    points = (middles[:, None] + offsets).reshape(-1, 12).astype(np.uint8)
    found = cluster(points, 5)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, middles.tolist()))
    assert (cluster(points, 5) == found).all()


def test_more_codes_than_patches_are_refused() -> None:
    points = np.repeat(np.arange(3, dtype=np.uint8)[:, None], 4, axis=1).repeat(5, axis=0)
    assert len(cluster(points, 3)) == 3
    with pytest.raises(ValueError, match="--codes is 4, but there are only 3 different patches"):
        cluster(points, 4)


@pytest.mark.parametrize("pixels", [(), HALF])
def test_a_patch_has_the_code_of_the_nearest_centre(tmp_path: Path, pixels: tuple[Any, ...]) -> None:
    rng = np.random.default_rng(1)
    centres = rng.integers(256, size=(20, 3 * 4 * 4), dtype=np.uint8)
    write_codebook(tmp_path / "book.safetensors", centres, 4)
    book = open_codebook(str(tmp_path / "book.safetensors"), *pixels)
    images = torch.from_numpy(rng.integers(256, size=(5, 3, 12, 16), dtype=np.uint8))
    distances = np.square(patches_of(list(images), 4)[:, None].astype(float) - centres).sum(-1)
    codes = book.encode(normalise(images, *pixels))
    assert book.codes == 20
    assert codes.dtype == torch.int64
    assert codes.tolist() == distances.argmin(1).reshape(5, 12).tolist()


def test_the_command_makes_the_same_file_each_time(shards: Path, tmp_path: Path) -> None:
    sizes = ["--codes", "6", "--patch-size", "16", "--image-size", "48"]
    for name in ("one", "two"):
        assert main([str(shards / "texts" / "train"), "--out", str(tmp_path / f"{name}.safetensors"), *sizes]) == 0
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    book = PatchCodebook.load(tmp_path / "one.safetensors")
    assert (book.codes, book.patch_size) == (6, 16)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"--codes": "0"}, "--codes is 0"),
        ({"--patch-size": "7"}, "--image-size 48 is not a multiple of --patch-size 7"),
        ({"--codes": "20", "--images": "2"}, "there are only 18 different patches"),
    ],
)
def test_a_command_that_cannot_be_says_why(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], told: str
) -> None:
    options = {"--out": str(tmp_path / "x.safetensors"), "--codes": "6", "--patch-size": "16", "--image-size": "48"}
    given = [word for pair in (options | changes).items() for word in pair]
    assert main([str(shards / "texts" / "train"), *given]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.001, 1), (0.15, 5), (0.5, 18), (1.0, 36)])
def test_each_image_has_its_share_of_patches_hidden(share: float, count: int) -> None:
    drawn = draw_patches(50, 36, share, np.random.default_rng(0))
    assert (drawn.sum(1) == count).all()
    if 1 < count < 36:
        assert len({tuple(row) for row in drawn.tolist()}) > 20
        assert drawn.any(0).all()  # no patch is left out for ever
        expected = 50 * count / 36
        assert abs(drawn.sum(0) - expected).max() < 5 * np.sqrt(expected)


def test_hidden_patches_change_no_other_draw(shards: Path, tokenizer_folder: Path) -> None:
    plain = batches(pretrain_module(shards, tokenizer_folder, crop_scale=(0.5, 1.0)))
    hiding = batches(
        pretrain_module(
            shards, tokenizer_folder, crop_scale=(0.5, 1.0), patch_share=0.15, codebook=f"{__name__}.Quarters"
        )
    )
    own = ("hidden_patches", "patch_codes", "hidden_places")
    for one, other in zip(plain, hiding, strict=True):
        for field in fields(one):
            before, now = getattr(one, field.name), getattr(other, field.name)
            if field.name not in own:
                assert torch.equal(before, now) if isinstance(before, Tensor) else before == now, field.name
        assert not one.hidden_patches.any()
        assert (one.patch_codes == IGNORED).all()
        assert one.patch_codes.shape == one.hidden_patches.shape == (len(one), 36)
        assert (other.hidden_patches.sum(1) == 5).all()
        assert torch.equal(other.patch_codes, Quarters().encode(other.pixel_values))


def test_validation_hides_the_same_patches_each_time(shards: Path, tokenizer_folder: Path) -> None:
    module = pretrain_module(shards, tokenizer_folder, patch_share=0.2)
    first, second = batches(module, "validate"), batches(module, "validate")
    assert all(torch.equal(a.hidden_patches, b.hidden_patches) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0].hidden_patches, first[1].hidden_patches)


def test_the_data_module_says_what_the_task_has_to_know(shards: Path, tokenizer_folder: Path, tmp_path: Path) -> None:
    write_codebook(tmp_path / "book.safetensors", np.zeros((9, 192), dtype=np.uint8), 8)
    facts = pretrain_module(
        shards, tokenizer_folder, patch_share=0.3, codebook=str(tmp_path / "book.safetensors")
    ).facts()
    assert (facts.patch_share, facts.codes) == (0.3, 9)
    assert pretrain_module(shards, tokenizer_folder, codebook=f"{__name__}.Quarters").facts().codes == 4
    facts = pretrain_module(shards, tokenizer_folder).facts()
    assert (facts.patch_share, facts.codes) == (0.0, None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"patch_share": 1.5}, r"data\.patch_share is 1\.5"),
        ({"patch_share": float("nan")}, r"data\.patch_share is nan"),
        ({"codebook": "nowhere.safetensors"}, r"data\.codebook: nowhere\.safetensors not found; python -m datamodules"),
        ({"codebook": "BOOK"}, r"data\.codebook .*\.safetensors is of patches of 4 px, but data\.patch_size is 8"),
        ({"codebook": "SPOILT"}, r"data\.codebook: .*spoilt\.safetensors is not a codebook"),
        ({"codebook": "NAN"}, r"data\.codebook: .*nan\.safetensors is damaged: some centres are not finite"),
        ({"codebook": f"{__name__}.Raises"}, r"data\.codebook: .*Raises is neither a file .*: no luck"),
        ({"codebook": "no_such_module.Class"}, r"data\.codebook: no_such_module\.Class is neither a file"),
        ({"codebook": "plainword"}, r"data\.codebook: plainword is neither a file"),
        ({"codebook": f"{__name__}.NoCodebook"}, r"data\.codebook: .*NoCodebook must have encode"),
    ],
)
def test_impossible_options_name_their_key(
    shards: Path, tokenizer_folder: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    files = {name: tmp_path / f"{name.lower()}.safetensors" for name in ("BOOK", "SPOILT", "NAN")}
    write_codebook(files["BOOK"], np.zeros((2, 48), dtype=np.uint8), 4)
    save_file({"centres": np.full((2, 192), np.nan, dtype=np.float32)}, files["NAN"], metadata={"patch_size": "8"})
    files["SPOILT"].write_bytes(files["BOOK"].read_bytes()[:40])
    changes = {key: str(files.get(value, value)) if key == "codebook" else value for key, value in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        pretrain_module(shards, tokenizer_folder, **changes).check()


def test_a_codebook_that_does_not_keep_its_word_is_named(shards: Path, tokenizer_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.codebook gave codes \(4, 36\) from 0 to 1; .* number of codes, 1"):
        batches(pretrain_module(shards, tokenizer_folder, codebook=f"{__name__}.Beyond"))
