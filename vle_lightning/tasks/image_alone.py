"""What tasks on images without texts share: the image's path through the backbone, and nothing else that trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from vle_lightning.batch import DataFacts
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.hub.pretrained import Pretrained
from vle_lightning.models.backbone import Backbone, Blind
from vle_lightning.optim import OptimConfig
from vle_lightning.tasks.base import VisionLanguageTask


class ImageAloneTask(VisionLanguageTask):
    """A head on images that are encoded alone; what their path does not pass is frozen. A subclass makes the head."""

    class_bias: ClassVar[str]  # tensor of the head that has a number a class

    def __init__(
        self,
        architecture: Architecture,
        classes: int,
        blind: Blind,
        optim: OptimConfig,
        seed: int,
    ) -> None:
        """Build the encoder.

        Raises:
            UserError: the image is masked, or there are fewer than two classes.
        """
        if blind == "image":
            raise UserError(f"model.blind: {self.task_name()} has nothing but the image to go by; leave it out")
        if classes < 2:
            raise UserError(f"model.classes is {classes}; give how many data.classes lists, at least 2")
        super().__init__(architecture, blind, optim, seed)
        self.classes = classes

    def begin(self, depths: Sequence[int]) -> int:
        """Freeze what an image does not pass on its way to the last of ``depths``; return the width of its states."""
        return train_image_path(self.model, depths)

    @classmethod
    def options_of(cls, pretrained: Pretrained) -> dict[str, Any]:
        """Count the classes of a head that a source holds."""
        bias = pretrained.heads.get(cls.task_name(), {}).get(cls.class_bias)
        return {} if bias is None else {"classes": len(bias)}

    def heads(self) -> dict[str, nn.Module]:
        """Return the head by the task's name."""
        return {self.task_name(): self.get_submodule("head")}

    def start_encoder(self, init: str | None) -> None:
        """Fill the encoder alone: another list of classes gives the head's numbers another meaning."""
        self.start(init, {}, (self.task_name(),))

    def disagreements(self, facts: DataFacts) -> list[str]:
        """Add the number of classes."""
        found = super().disagreements(facts)
        if facts.classes not in (None, self.classes):
            found.append(f"data.classes lists {facts.classes} classes, but model.classes is {self.classes}")
        return found

    def class_names(self) -> list[str]:
        """Return the names of the classes; their numbers where the data gave no names."""
        return list(self.labels) if self.labels else [str(number) for number in range(self.classes)]


def train_image_path(model: Backbone, depths: Sequence[int]) -> int:
    """Freeze all weights that no state of an image at these depths depends on.

    They would get no gradient, which data-parallel training takes for a mistake. Which ones they are a twin without
    memory tells, so that no backbone has to list them.

    Returns:
        The width of the states.

    Raises:
        UserError: the backbone does not give such states.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        twin = model.config.build(model.blind)
    side = model.config.image_size
    streams = twin.image_layers(torch.zeros(1, 3, side, side, device="meta"), depths)
    torch.stack([stream.states.sum() for stream in streams]).sum().backward()
    passed = {name for name, parameter in twin.named_parameters() if parameter.grad is not None}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in passed)
    return streams[-1].states.shape[-1]
