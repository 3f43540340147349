"""Limits of what visitors of the demo may send, and reading their input within them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vle_lightning.errors import UserError
from vle_lightning.inference.pictures import open_picture


@dataclass(frozen=True)
class Limits:
    """How much one request may hold, and how many may wait."""

    upload_megabytes: int = 20
    pixels: int = 50_000_000  # telephones take pictures of 48 million
    aspect: int = 20  # longer side over shorter: models enlarge the shorter side to theirs, and the longer one with it
    characters: int = 500  # of a question or a text
    texts: int = 32  # of one request
    pictures: int = 20_000  # of a folder to search
    boxes: int = 20  # of a VCR question
    name: int = 50  # characters of a box's class
    waiting: int = 64  # requests in the queue of the page
    together: int = 16  # requests of one button that run at the same time, in batches where they meet


def read_picture(path: str | None, limits: Limits) -> Image.Image:
    """Open a picture that was uploaded.

    Raises:
        UserError: there is none, it is too large, or it cannot be read. The message does not name the server's path.
    """
    if path is None:
        raise UserError("There is no picture: upload one, paste it, or choose an example.")
    try:
        size = Path(path).stat().st_size
        if size > limits.upload_megabytes * 10**6:
            raise UserError(
                f"The picture has {size / 10**6:.1f} MB; this page takes up to {limits.upload_megabytes} MB."
            )
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"The picture is no longer here ({error.strerror}): upload it again.") from error
    picture = open_picture(content, limits.pixels)
    if max(picture.size) > limits.aspect * min(picture.size):
        raise UserError(
            f"The picture is {picture.width} x {picture.height}; this page takes pictures up to {limits.aspect} times "
            "as long as wide."
        )
    return picture.convert("RGB")


def read_text(text: str | None, name: str, limits: Limits) -> str:
    """Return a text without the white space around it.

    Raises:
        UserError: it is empty or too long.
    """
    found = (text or "").strip()
    if not found:
        raise UserError(f"The {name} is empty: type one.")
    if len(found) > limits.characters:
        raise UserError(
            f"The {name} has {len(found):,} characters; this page takes up to {limits.characters:,}: shorten it."
        )
    return found


def read_lines(text: str | None, name: str, limits: Limits) -> list[str]:
    """Return the texts of a field that holds one a line, each once.

    Raises:
        UserError: there are none or too many, or one is too long.
    """
    lines = list(dict.fromkeys(line.strip() for line in (text or "").splitlines() if line.strip()))
    if not lines:
        raise UserError(f"There are no {name}s: type one a line.")
    if len(lines) > limits.texts:
        raise UserError(f"There are {len(lines)} {name}s; this page takes up to {limits.texts}: leave some out.")
    return [read_text(line, name, limits) for line in lines]
