from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from vle_lightning.demo.limits import Limits, read_lines, read_picture, read_text
from vle_lightning.errors import UserError

LIMITS = Limits(pixels=10_000, upload_megabytes=1, characters=20, texts=3)


def large_png(width: int, height: int) -> bytes:
    """Return a valid PNG of width x height black pixels, without drawing them in memory first."""
    squeezed, row = zlib.compressobj(), bytes(1 + (width + 7) // 8)
    data = b"".join(squeezed.compress(row) for _ in range(height)) + squeezed.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_picture_within_the_limits_is_opened_in_rgb(tmp_path: Path) -> None:
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    found = read_picture(str(tmp_path / "a.png"), LIMITS)
    assert (found.size, found.mode) == ((20, 10), "RGB")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read"),
        (b"no picture at all", "none of JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of JPEG"),
        (large_png(200, 200), "more than 10,000 pixels"),
        (large_png(10_000, 10_000), "more than 10,000 pixels"),
        (bytes(1_100_000), "1.1 MB; this page takes up to 1 MB"),
    ],
    ids=["empty", "text", "svg", "pixels", "many pixels", "bytes"],
)
def test_other_uploads_are_a_sentence_without_the_servers_path(content: bytes, told: str, tmp_path: Path) -> None:
    file = tmp_path / "upload.png"
    file.write_bytes(content)
    with pytest.raises(UserError, match=told) as error:
        read_picture(str(file), LIMITS)
    assert str(tmp_path) not in str(error.value)


def test_a_long_picture_is_refused_since_models_enlarge_its_shorter_side(tmp_path: Path) -> None:
    for number, size in enumerate([(100_000, 100), (100, 2_001)]):
        (tmp_path / f"{number}.png").write_bytes(large_png(*size))
        with pytest.raises(UserError, match=f"{size[0]} x {size[1]}; this page takes pictures up to 20 times as long"):
            read_picture(str(tmp_path / f"{number}.png"), Limits())
    (tmp_path / "long.png").write_bytes(large_png(100, 2_000))
    assert read_picture(str(tmp_path / "long.png"), Limits()).size == (100, 2_000)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.png").write_bytes(bytes(1_100_000))
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    with pytest.raises(UserError, match="1.1 MB; this page takes up to 1 MB"):
        read_picture(str(tmp_path / "large.png"), LIMITS)


def test_a_truncated_picture_is_a_sentence(tmp_path: Path) -> None:
    Image.effect_noise((90, 90), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(str(tmp_path / "half.jpg"), LIMITS)


def test_a_missing_picture_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="upload one"):
        read_picture(None, LIMITS)
    with pytest.raises(UserError, match="no longer here"):
        read_picture(str(tmp_path / "gone.png"), LIMITS)


def test_texts_are_bounded() -> None:
    assert read_text("  two dogs ", "question", LIMITS) == "two dogs"
    with pytest.raises(UserError, match="The question has 10,000 characters; this page takes up to 20"):
        read_text("a" * 10_000, "question", LIMITS)
    with pytest.raises(UserError, match="The phrase is empty"):
        read_text(" \n", "phrase", LIMITS)
    assert read_lines("a\n\n b \na", "text", LIMITS) == ["a", "b"]
    with pytest.raises(UserError, match="4 texts; this page takes up to 3"):
        read_lines("a\nb\nc\nd", "text", LIMITS)
