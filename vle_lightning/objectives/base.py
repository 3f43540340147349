"""What every pre-training objective is: declared views, a head, a loss and scores."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import ClassVar, Literal, NamedTuple, Self

from torch import Tensor, nn

from vle_lightning.batch import PretrainBatch
from vle_lightning.errors import UserError
from vle_lightning.models.backbone import Backbone
from vle_lightning.streams import Fused, FusedView, ImageView, Reading

HELPERS = ("base", "contrast", "passes")  # modules beside the objectives
UNIMODAL = ("image_codes", "text_mlm")  # objectives of one modality alone, which tasks of their own train
Hiding = Literal["vector", "pixels"]  # what stands for hidden patches: a learned vector, or black pixels


class Extra(Enum):
    """What contrast has for an objective."""

    VECTORS = "vectors"  # of the micro-batch, for contrast
    CONTRAST = "contrast"  # of the whole step, and where the micro-batch's rows stand in it
    NEGATIVES = "negatives"  # the drawn partners of the micro-batch's pairs


class Score(NamedTuple):
    """A share of right decisions; summed over micro-batches before dividing."""

    name: str
    hits: Tensor  # () float
    total: Tensor  # () float


class ObjectiveOutput(NamedTuple):
    """What an objective says of one micro-batch."""

    loss: Tensor  # (): mean over what the objective judged; an exact zero, tied to the head, where that is nothing
    judged: Tensor  # (): how many pairs, tokens, boxes or patches that were
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class ObjectiveOptions:
    """What the options of pre-training say to all objectives."""

    classes: int  # of boxes
    hiding: Hiding = "vector"
    tied: bool = True  # MLM's decoder is the table of word embeddings
    codes: int = 64  # that patches are told apart by


class Objective(nn.Module):
    """Base of all objectives. A subclass is one file: views, head, loss, scores; no logging and no trainer.

    Attributes:
        views: the fused pass that it judges.
        fuses: False: it reads text and image of ``views`` before fusion, and no pass is made for it.
        reads: image streams before fusion that ``forward`` takes behind the batch, in this order.
        extras: what it takes behind these.
    """

    name: ClassVar[str]
    score_names: ClassVar[tuple[str, ...]]
    views: ClassVar[FusedView]
    fuses: ClassVar[bool] = True
    reads: ClassVar[tuple[ImageView, ...]] = ()
    extras: ClassVar[tuple[Extra, ...]] = ()
    mask_vector: nn.Parameter | None  # (hidden_width of the backbone,) what hidden patches are, if it is learned

    @classmethod
    def build(cls, model: Backbone, options: ObjectiveOptions) -> Self:
        """Make the objective for a model; most need none of the options."""
        del options
        return cls(model)

    def __init__(self, model: Backbone) -> None:
        """Make the head; it takes its sizes from the model."""
        super().__init__()
        self.register_parameter("mask_vector", None)

    def vectors(self) -> dict[ImageView, Tensor]:
        """Return what stands for the hidden patches of this objective's view of the image, where it is learned."""
        return {} if self.mask_vector is None else {self.views.image: self.mask_vector}

    def reading(self, batch: PretrainBatch) -> Reading:
        """Say which states of its pass are read: the last layer computes these alone.

        Whether a stream is read at all must not depend on the batch, for ranks that share weights call layers together.
        Texts are padded to the longest of several passes: of them only a slice from the front has a meaning.
        """
        del batch
        return Reading()

    def forward(self, fused: Fused, batch: PretrainBatch) -> ObjectiveOutput:
        """Judge one micro-batch: ``fused`` is the pass over B pairs that ``views`` asks for, 3 B where it is hard."""
        raise TypeError(f"{type(self).__name__} does not define forward")


def mean_loss(losses: Tensor, judged: Tensor) -> Tensor:
    """Average the losses of what is ``judged``, a bool of their shape.

    Nothing is selected by it, for how much that is, the host would have to wait to know. Where it is nothing the mean
    is a zero that still reaches the head's parameters in backward.
    """
    return losses.where(judged, 0).sum() / judged.sum().clamp(min=1)


def objective_names() -> list[str]:
    """Return the names of the modules of this package that define an objective, sorted."""
    path = import_module("vle_lightning.objectives").__path__
    return [module.name for module in pkgutil.iter_modules(path) if module.name not in (*HELPERS, *UNIMODAL)]


def find_objective(name: str) -> type[Objective]:
    """Return the objective that the module ``vle_lightning.objectives.<name>`` defines.

    Raises:
        UserError: there is no such module.
    """
    package, known = "vle_lightning.objectives", objective_names()
    if name not in known:
        raise UserError(f"model.objectives: no objective '{name}'; choose among {', '.join(known)}")
    module = import_module(f"{package}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Objective) and value.__module__ == module.__name__
    )
