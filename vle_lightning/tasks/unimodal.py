"""What pre-training on one modality alone shares: one objective, and what trains of the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.models.backbone import Backbone, Modality
from vle_lightning.objectives.base import ObjectiveOutput
from vle_lightning.optim import OptimConfig
from vle_lightning.tasks.base import Stage, VisionLanguageTask


class UnimodalTask(VisionLanguageTask):
    """One objective on one modality. What that modality does not read is frozen, and what ``freeze`` names.

    So every weight that trains gets a gradient: no strategy has to look for unused ones, and the optimiser has no state
    of what must not change.
    """

    monitor = "val/loss"
    monitor_mode: ClassVar[str] = "min"
    modality: ClassVar[Modality]

    def __init__(
        self, architecture: Architecture, freeze: Sequence[str], optim: OptimConfig, seed: int, blind: str = "none"
    ) -> None:
        """Build the encoder; the subclass makes the objective.

        Args:
            architecture: see `VisionLanguageTask`.
            freeze: parts of the encoder that stay as they are, see `freeze_parts`.
            optim: learning rates and schedule.
            seed: of dropout.
            blind: none; there is one modality only.

        Raises:
            UserError: ``freeze`` names what is not there.
        """
        if blind != "none":
            raise UserError(
                f"model.blind={blind}: pre-training on {self.modality}s alone has no other modality: leave it out"
            )
        super().__init__(architecture, "none", optim, seed)
        freeze_parts(self.model, self.modality, freeze)

    @property
    def trains_all(self) -> bool:
        """Say that it does: all else is frozen."""
        return True

    def own_heads(self) -> Mapping[str, nn.Module]:
        """Return the heads that the published checkpoints lack, by a name of ours."""
        return {}

    def heads(self) -> dict[str, nn.Module]:
        """Return all heads."""
        return {**self.published_heads(), **self.own_heads()}

    def conclude(self, output: ObjectiveOutput, stage: Stage) -> Tensor:
        """Log what an objective says of a micro-batch; return its loss ()."""
        for score in output.scores:
            self.score(stage, *score)
        if stage is not Stage.TRAIN:
            counts = output.judged.clamp(max=1).to(output.loss.dtype)  # a micro-batch of fillers does not
            self.score(stage, "loss", output.loss.detach() * counts, counts)
        return output.loss


def freeze_parts(model: Backbone, modality: Modality, freeze: Sequence[str]) -> None:
    """Leave untrained what a modality by itself does not read, and the named parts.

    Args:
        model: the encoder.
        modality: that is trained.
        freeze: beginnings of parameters' names without the numbers of layers: ``blocks.attention`` is all of
            ``blocks.0.attention.qkv.weight`` and its like.

    Raises:
        UserError: a name fits no parameter that would train, or nothing would be left to train.
    """
    names = {name: unnumbered(name) for name, _ in model.named_parameters() if model.reads(name, modality)}
    for part in freeze:
        if not any(begins(name, part) for name in names.values()):
            known = sorted({".".join(name.split(".")[:2]) for name in names.values()})
            raise UserError(f"model.freeze: there is no {part!r} to freeze; such parts are {', '.join(known)}")
    trained = {name for name, plain in names.items() if not any(begins(plain, part) for part in freeze)}
    if not trained:
        raise UserError("model.freeze leaves nothing of the encoder to train")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def unnumbered(name: str) -> str:
    """Return a parameter's name without the numbers of layers."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def begins(name: str, part: str) -> bool:
    """Say whether a name begins with the parts of another."""
    return name == part or name.startswith(f"{part}.")
