"""What all pipelines share: a model on its device, the processor, batches of pictures and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import read_pretrained
from vle_lightning.inference.chat import ChatServer
from vle_lightning.inference.items import Item, gather
from vle_lightning.inference.pictures import open_picture
from vle_lightning.inference.processor import Processor
from vle_lightning.models.backbone import Backbone
from vle_lightning.streams import Fused
from vle_lightning.tasks.base import VisionLanguageTask

TaskT = TypeVar("TaskT", bound=VisionLanguageTask)


@dataclass(frozen=True)
class Settings:
    """How a pipeline runs."""

    source: str
    processor: Processor
    device: torch.device
    dtype: torch.dtype
    batch_size: int
    answers: tuple[str, ...] | None = None  # names of a VQA head's answers, where the source has none
    tokenizer: str | None = None  # given by name, because the source has neither tokenizer nor image settings
    chat: ChatServer | None = None  # of the language model that words answers
    captioner: str | None = None  # model that describes the picture to it


class Seen(NamedTuple):
    """The pictures of B items, each of N different ones once."""

    pictures: list[Image.Image]
    pixel_values: Tensor  # (N, 3, H, W), on the device
    rows: Tensor  # (B,) int64: which picture each item has


class Pipeline:
    """Base of the pipelines. A subclass says what an item is given by and what becomes of it."""

    text_name = "text"  # the keyword that holds the text
    __call__: Callable[..., Any]  # one item, a list or a stream of them, as keywords or as dictionaries

    def __init__(self, settings: Settings, module: nn.Module, encoder: Backbone) -> None:
        """Put a model to use.

        Args:
            settings: how to run.
            module: the encoder with its head.
            encoder: its encoder.

        Raises:
            UserError: tokenizer and model do not belong together.
        """
        self.settings, self.processor = settings, settings.processor
        words, rows = len(self.processor.tokenizer) if self.processor.reads_texts else 0, encoder.vocabulary
        if words > rows:
            raise UserError(
                f"{settings.source}: the tokenizer has {words} ids, the model knows {rows}; give the processor "
                "of this very model"
            )
        module.eval().to(settings.device, settings.dtype)
        self.encoder = encoder

    def _run(
        self,
        items: object,
        respond: Callable[[Sequence[Item]], Sequence[Any]],
        batch_size: int | None,
        fields: Mapping[str, str] | None = None,
        **values: object,
    ) -> Any:  # noqa: ANN401 (one result or many)
        """Answer a call; ``respond`` gives a result for each item of a batch, without gradients."""
        call = gather(items, fields or {"image": "image", self.text_name: "text"}, **values)
        return call.answer(
            self.settings.batch_size if batch_size is None else batch_size, torch.inference_mode()(respond)
        )

    def texts(self, items: Sequence[Item]) -> list[str]:
        """Return the texts; an empty or missing one is an error that names its item."""
        return [item.read_text(self.text_name) for item in items]

    def look(self, items: Sequence[Item]) -> Seen:
        """Open and prepare the pictures of B items.

        Raises:
            UserError: a picture is missing or broken; names its item.
        """
        numbers: dict[int, int] = {}
        pictures: list[Image.Image] = []
        for item in items:
            if id(item.image) in numbers:
                continue
            numbers[id(item.image)] = len(pictures)
            try:
                if item.image is None:
                    raise UserError("the image is missing; give one")
                pictures.append(open_picture(item.image))
            except UserError as error:
                raise UserError(f"{item.place}{error}") from error
        rows = torch.tensor([numbers[id(item.image)] for item in items], device=self.settings.device)
        pixel_values = self.processor.pixels(pictures)
        return Seen(pictures, pixel_values.to(self.settings.device, self.settings.dtype), rows)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenise B texts, on the device: ids (B, T) and mask (B, T).

        Raises:
            UserError: a text has more tokens than the model has positions for.
        """
        input_ids, mask = self.processor.tokenize(texts)
        if input_ids.shape[1] > self.encoder.max_tokens:
            longest = int(mask.sum(1).argmax())
            raise UserError(
                f"the text {texts[longest][:40]!r}... has {int(mask[longest].sum())} tokens; the model reads "
                f"{self.encoder.max_tokens}: shorten it"
            )
        return input_ids.to(self.settings.device), mask.to(self.settings.device)

    def fuse(self, seen: Seen, texts: Sequence[str]) -> Fused:
        """Fuse B texts with their pictures; each different picture is encoded once.

        Raises:
            UserError: the states are not finite, so that every answer would be NaN.
        """
        image = self.encoder.encode_image(seen.pixel_values).select(seen.rows)
        fused = self.encoder.fuse(self.encoder.encode_text(*self.tokenize(texts)), image)
        self.finite(fused.pooled)
        return fused

    def finite(self, numbers: Tensor) -> Tensor:
        """Return what a model has computed, if an answer can be made of it.

        Raises:
            UserError: some of it is NaN or infinite.
        """
        if not bool(torch.isfinite(numbers).all()):
            raise UserError(
                f"{self.settings.source}: the model computes no finite numbers in {self.settings.dtype}: use float32, "
                "or another checkpoint if it does so in float32 as well"
            )
        return numbers


def load_task(kind: type[TaskT], source: str | Path, head: str, **options: Any) -> TaskT:  # noqa: ANN401
    """Load a task with a head that the source must hold: a new one would answer at random.

    Args:
        kind: of task.
        source: any that ``from_pretrained`` reads.
        head: its published name.
        options: of the task's constructor.

    Raises:
        UserError: the source cannot be read, or has no such head.
    """
    pretrained = read_pretrained(source)
    task = kind.restore(pretrained, **options)
    if head in task.new_heads:
        raise UserError(
            f"{source} has no head '{head}', which this pipeline needs; name a model that was trained for it"
        )
    return task
