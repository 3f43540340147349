"""Models are found in folders, shards and the hub's cache; what is wrong with one is said in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor

from tests.factories import dual
from tests.hub.published import publish, published_config, published_weights
from vle_lightning.errors import UserError
from vle_lightning.hub.folder import as_hub_name, find_folder, read_weights
from vle_lightning.hub.pretrained import from_pretrained

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return published_weights("itm_score")


def write_shards(folder: Path, weights: dict[str, Tensor], stem: str, suffix: str) -> None:
    (folder / "config.json").write_text(json.dumps(published_config()))
    keys = sorted(weights)
    places = {key: f"{stem}-0000{1 + number % 2}-of-00002.{suffix}" for number, key in enumerate(keys)}
    for name in set(places.values()):
        part = {key: weights[key] for key in keys if places[key] == name}
        (torch.save if suffix == "bin" else save_file)(part, folder / name)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize(("stem", "suffix"), [("model", "safetensors"), ("pytorch_model", "bin")])
def test_shards_make_a_whole(stem: str, suffix: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    write_shards(tmp_path, weights, stem, suffix)
    read = read_weights(tmp_path)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[key], weights[key]) for key in weights)
    _, report = from_pretrained(tmp_path)
    assert "itm_score" in report.dropped


def test_a_single_bin_file_is_read(weights: dict[str, Tensor], tmp_path: Path) -> None:
    publish(tmp_path, weights)
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    encoder, _ = from_pretrained(tmp_path)
    assert torch.equal(dual(encoder).text_pooler.dense.bias, weights["vle.cross_modal_text_pooler.dense.bias"])


def test_a_missing_shard_is_named(weights: dict[str, Tensor], tmp_path: Path) -> None:
    write_shards(tmp_path, weights, "model", "safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="index.json names files that are not beside it: model-00002-of-00002"):
        read_weights(tmp_path)


def test_a_shard_that_lies_elsewhere_is_not_opened(weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "elsewhere.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "../elsewhere.safetensors")}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="not beside it"):
        read_weights(tmp_path / "folder")


def test_a_tensor_that_no_shard_holds_is_named(weights: dict[str, Tensor], tmp_path: Path) -> None:
    write_shards(tmp_path, weights, "model", "safetensors")
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["lost"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match="lack 1 tensors: lost"):
        read_weights(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, -1])
def test_a_truncated_safetensors_file_is_named(kept: int, weights: dict[str, Tensor], tmp_path: Path) -> None:
    file = publish(tmp_path, weights) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model.safetensors cannot be read as safetensors \(cut short"):
        from_pretrained(tmp_path)


def test_a_file_of_other_things_is_refused(tmp_path: Path) -> None:
    torch.save({"step": 3, "x": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="other things than tensors under step"):
        read_weights(tmp_path)
    torch.save([1, 2], tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds a list"):
        read_weights(tmp_path)


def test_a_folder_without_weights_or_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither model.safetensors nor pytorch_model.bin"):
        read_weights(tmp_path)
    with pytest.raises(UserError, match="has no config.json"):
        find_folder(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        find_folder(str(tmp_path / "nothing"))


def test_names_of_the_hub_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert as_hub_name("hfl/vle-base") == ("hfl/vle-base", None)
    assert as_hub_name("hfl/vle-base@refs/pr/1") == ("hfl/vle-base", "refs/pr/1")
    for path in ("checkpoints/pretrain-toy", "./hfl/vle-base", "/hfl/vle-base", "runs/best.ckpt", "model", "a/b/c"):
        assert as_hub_name(path) is None, path
    assert as_hub_name(Path("hfl/vle-base")) is None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache in an empty folder, and no network."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_a_cached_model_is_found_offline_by_name_and_revision(weights: dict[str, Tensor], cache: Path) -> None:
    model = cache / "models--hfl--tiny"
    publish(model / "snapshots" / COMMIT, weights)
    for reference in ("main", "v2"):
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / reference).write_text(COMMIT)
    for source in ("hfl/tiny", "hfl/tiny@v2", f"hfl/tiny@{COMMIT}"):
        folder = find_folder(source)
        assert folder.path == model / "snapshots" / COMMIT
        assert folder.config == published_config()
    _, report = from_pretrained("hfl/tiny")
    assert report.source == "hfl/tiny"
    with pytest.raises(UserError, match="hfl/tiny is neither a folder here nor a model that the hub hands out"):
        find_folder("hfl/tiny@v3")


def test_an_unknown_name_is_an_error_offline(cache: Path) -> None:
    assert not cache.exists()
    with pytest.raises(UserError, match="model.init: hfl/nothing is neither a folder here nor a model"):
        find_folder("hfl/nothing", "model.init")
    shutil.rmtree(cache, ignore_errors=True)
