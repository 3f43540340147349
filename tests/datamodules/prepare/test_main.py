"""The command line of the converters."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.prepare import Options, convert
from datamodules.prepare.__main__ import main
from datamodules.prepare.engine import dataset_classes
from datamodules.shards import ShardFolder
from tests.datamodules.prepare.test_coco import write_coco


def test_a_module_with_a_data_set_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"coco", "visual_genome", "vqav2", "vcr"} <= set(dataset_classes())
    with pytest.raises(SystemExit):
        main(["coco", "--help"])
    assert "--longest-side" in capsys.readouterr().out


def test_every_option_arrives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = [{"caption": "a dog", "image_id": image} for image in range(1, 21)]
    write_coco(tmp_path, captions, [{}], images=20)
    command = f"coco --src {tmp_path} --out {tmp_path}/out --splits train --longest-side 10 --quality 50"
    main([*command.split(), "--samples-per-shard", "3", "--limit", "9", "--seed", "5", "--threads", "2"])
    folder = ShardFolder(tmp_path / "out" / "coco" / "train")
    assert folder.shard_sizes == (3, 3, 3)
    assert "9 images; left out: nothing" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--splits", "train"], "no images"),
        (["--limit", "0"], "limit is 0"),
        (["--longest_sid", "3"], "longest_sid"),
        (["--quality", "x"], "quality"),
    ],
)
def test_mistakes_end_with_code_2_and_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["coco", "--src", str(tmp_path), "--out", str(tmp_path / "out"), *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set 'imagenet'; known are coco, "):
        convert("imagenet", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="quality is 0"):
        Options(quality=0)
