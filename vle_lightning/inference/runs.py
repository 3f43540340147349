"""What a run folder knows of its data: the tokenizer, the picture's size, the answers (its config.yaml)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.classes import read_classes
from vle_lightning.encoders.base import PixelFacts
from vle_lightning.errors import UserError
from vle_lightning.hub.checks import fits
from vle_lightning.hub.sharded import is_sharded
from vle_lightning.yaml_limits import read_yaml

CONFIG = "config.yaml"
IMAGE_TASKS = ("classification", "segmentation", "pretrain_images")  # read no texts, and have no tokenizer


class RunSettings(NamedTuple):
    """A run's config.yaml."""

    path: Path
    task: str
    model: dict[str, Any]
    data: dict[str, Any]

    def find(self, name: str) -> str:
        """Return where a file or folder lies that the run named; relative paths also start above the run folder.

        What is nowhere (a hub name, or a path that is gone) comes back as it is.
        """
        bases = (Path(), *self.path.resolve().parents[1:])
        return next((str(base / name) for base in bases if (base / name).exists()), name)

    @property
    def framing(self) -> str:
        """Return what becomes of a picture that is no square."""
        return str(self.data.get("framing") or "squeeze")

    @property
    def pixels(self) -> PixelFacts:
        """Return how the run's pixels are normalised; by CLIP's numbers in runs that do not say.

        Raises:
            UserError: they are no three numbers each.
        """
        known = PixelFacts()
        mean, std = self.data.get("pixel_mean") or known.mean, self.data.get("pixel_std") or known.std
        if not all(fits(list(values), list[float]) and len(values) == 3 for values in (mean, std)):
            raise UserError(f"{self.path}: data.pixel_mean and data.pixel_std must hold three numbers each")
        return PixelFacts(tuple(mean), tuple(std))

    @property
    def tokenizer(self) -> str | None:
        """Return the tokenizer's folder or hub name; None of a run on images alone."""
        given = self.data.get("tokenizer")
        return None if given is None or self.task in IMAGE_TASKS else self.find(str(given))

    @property
    def answers(self) -> list[str] | None:
        """Return the answers of a run on questions; None for other tasks.

        Raises:
            UserError: their file is gone or is not a list of texts.
        """
        if "answers" not in self.data:
            return None
        file = Path(self.find(str(self.data["answers"])))
        try:
            answers = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: data.answers {file} cannot be read: {error}") from error
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise UserError(f"{self.path}: data.answers {file} must be a JSON list of answers")
        return answers

    @property
    def classes(self) -> list[str] | None:
        """Return the name of each box class of a pre-training run; None for other tasks.

        Raises:
            UserError: their file is gone or names no classes.
        """
        source = self.data.get("classes")
        if source is None:
            return None
        try:
            numbers = read_classes(self.find(source) if isinstance(source, str) else source)
        except (ValueError, FileNotFoundError) as error:
            raise UserError(f"{self.path}: {error}") from error
        first = {number: name for name, number in reversed(numbers.items())}
        return [first.get(number, str(number)) for number in range(max(first, default=-1) + 1)]


def is_of_run(source: str | Path) -> bool:
    """Say whether a config.yaml lies in a folder, or beside a checkpoint."""
    path = Path(source)
    return ((path.parent if path.is_file() or is_sharded(path) else path) / CONFIG).is_file()


def run_settings(source: str | Path) -> RunSettings | None:
    """Read the config.yaml of a run folder, or of the folder that a checkpoint lies in.

    Returns:
        None where the source is neither: an exported folder, say, or a hub name.

    Raises:
        UserError: a checkpoint file without config.yaml beside it, or one that is not of a run.
    """
    path = Path(source)
    if not (path.is_file() or is_sharded(path)):
        file = path / CONFIG
        if not file.is_file():
            return None
    else:
        file = path.parent / CONFIG
        if not file.is_file():
            raise UserError(
                f"{path}: there is no {CONFIG} beside it, which names tokenizer and answers; keep both together, "
                "or name a run folder, an exported folder or a hub name; of a published file of weights alone, such as "
                "METER's or VLMo's, give tokenizer"
            )
    content = read_yaml(file)
    if not isinstance(content, dict) or not {"task", "model", "data"} <= content.keys():
        raise UserError(f"{file} is not the record of a run: it has no task, model and data")
    data = content["data"]
    needed = {"image_size"} if content["task"] in IMAGE_TASKS else {"tokenizer", "image_size"}
    if not isinstance(data, dict) or not needed <= data.keys():
        raise UserError(f"{file}: data has no tokenizer and image_size")
    if not fits(data["image_size"], int) or data["image_size"] < 1:
        raise UserError(f"{file}: data.image_size is {data['image_size']!r}; give a number of pixels")
    return RunSettings(file, str(content["task"]), content["model"], content["data"])
