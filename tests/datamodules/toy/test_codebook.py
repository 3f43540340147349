"""The toy world's codebook, and worlds that were made before there was one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datamodules.codebook import PatchCodebook
from datamodules.codebook import main as make_codebook
from datamodules.toy.__main__ import main
from datamodules.toy.build import FORMAT, codebook_command


def test_a_finished_world_without_a_codebook_says_how_to_get_it(
    toy_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {"format": FORMAT, "seed": 0, "train_scenes": 48, "val_scenes": 16}
    (tmp_path / "world.json").write_text(json.dumps(content))
    (tmp_path / "shards").symlink_to(toy_world / "shards")
    options = ["--out", str(tmp_path), "--train-scenes", "48", "--val-scenes", "16"]
    assert main(options) == 0
    assert codebook_command(tmp_path) in capsys.readouterr().out
    assert make_codebook(codebook_command(tmp_path).split()[3:]) == 0
    made, own = tmp_path / "codebook.safetensors", toy_world / "codebook.safetensors"
    assert made.read_bytes() == own.read_bytes()
    assert (PatchCodebook.load(made).codes, PatchCodebook.load(made).patch_size) == (64, 8)
    assert main(options) == 0
    assert "codebook" not in capsys.readouterr().out.splitlines()[-1]
