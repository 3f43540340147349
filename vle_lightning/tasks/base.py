"""What all tasks share: the encoder, its start, the optimiser, seeding, logging and scores."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import ClassVar, TypeVar

import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from vle_lightning.batch import Batch, Colours, DataFacts
from vle_lightning.distributed import any_rank
from vle_lightning.hub.architecture import Architecture, read_architecture
from vle_lightning.metrics.ratio import Ratio
from vle_lightning.models.backbone import Blind
from vle_lightning.optim import OptimConfig, make_optimizer, renew
from vle_lightning.tasks.pictures import Names, Picture
from vle_lightning.tasks.portable import PortableTask


class Stage(StrEnum):
    """Which split a step belongs to; the prefix of what it logs."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


EVALUATED = (Stage.VAL, Stage.TEST)
ROUNDED = 1e-6  # colours closer than this are one, written with other digits
MetricT = TypeVar("MetricT")
Rows = Sequence[Mapping[str, object]]  # what predict_step returned, of all samples


def per_split(make: Callable[[], MetricT]) -> dict[Stage, MetricT]:
    """Make a metric for each split that is scored as a whole."""
    return {stage: make() for stage in EVALUATED}


class VisionLanguageTask(PortableTask):
    """Wiring of an encoder, a head and metrics. A subclass says what a step computes.

    A subclass lists the names of its scores, all shares, and calls ``score`` with hits and totals;
    in training they are logged as they come, in validation and test they are summed over the whole split first.
    What a sum cannot say (see metrics) it keeps in a metric for each split and tells in ``split_scores``.
    """

    monitor: str  # the validation score that selects the checkpoint
    monitor_mode: ClassVar[str] = "max"
    calls_alike: ClassVar[bool] = True  # all ranks call the model equally often: else it hangs where they share weights

    def __init__(self, architecture: Architecture, blind: Blind, optim: OptimConfig, seed: int) -> None:
        """Build the encoder.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            blind: the masked modality: image, text or none.
            optim: learning rates and schedule.
            seed: of dropout, together with step and micro-batch.

        Raises:
            UserError: the architecture is unknown or cannot be.
        """
        super().__init__(read_architecture(architecture).build(blind))
        optim.check()
        self.optim, self.seed = optim, seed
        self._scores = nn.ModuleDict()
        self.own_loss: Tensor | None = None  # () of the latest training micro-batch, before the ranks agree on it
        self._finite_loss: Tensor | None = None  # () the latest such one that is finite
        self._shares: dict[str, Tensor] = {}  # () of each score, in training: the latest that judged something

    @property
    def looks_ahead(self) -> bool:
        """Say whether the first micro-batch of a step has to bring the others of its rank along."""
        return False

    @property
    def trains_all(self) -> bool:
        """Does the loss depend on every weight that trains? Some backbones have weights that no fusion reads."""
        return not self.model.alone_trains

    def disagreements(self, facts: DataFacts) -> list[str]:
        """Say where the model and its data do not fit each other; a subclass adds what concerns its head."""
        model, found = self.model, []
        if facts.vocabulary is not None and facts.vocabulary > model.vocabulary:
            found.append(
                f"data.tokenizer has {facts.vocabulary} tokens, but model.architecture's vocab_size is "
                f"{model.vocabulary}"
            )
        if facts.text_length is not None and facts.text_length > model.max_tokens:
            found.append(
                f"data.max_text_length is {facts.text_length}, but model.architecture has positions for "
                f"{model.max_tokens} tokens"
            )
        patch_size = model.layout.patch_size
        if facts.image_size is not None and facts.image_size % patch_size:
            found.append(
                f"data.image_size {facts.image_size} is not a multiple of model.architecture's patches, {patch_size}"
            )
        if facts.patch_size not in (None, patch_size):
            found.append(f"data.patch_size is {facts.patch_size}, but that of model.architecture {patch_size}")
        if facts.pixels is not None and differ(facts.pixels, model.pixels):
            (mean, std), (own_mean, own_std) = (map(list, pixels) for pixels in (facts.pixels, model.pixels))
            found.append(
                f"data.pixel_mean is {mean} and data.pixel_std {std}, but model.architecture's image encoder was "
                f"trained with mean {own_mean}, std {own_std}"
            )
        if model.padding is not None and facts.padding not in (None, model.padding):
            found.append(
                f"data.tokenizer pads with id {facts.padding}, but model.architecture's text encoder takes id "
                f"{model.padding} for padding"
            )
        return found

    @property
    def predicts(self) -> bool:
        """Say whether there is something to predict."""
        return is_overridden("predict_step", self)

    def step(self, batch: Batch, stage: Stage) -> Tensor:
        """Compute the loss () of one micro-batch and log its scores."""
        raise TypeError(f"{type(self).__name__} does not define step")

    def pictures(self, batch: Batch, names: Names) -> Iterable[Picture]:
        """Draw what the model makes of a few samples; called by the picture callback at validation."""
        del batch, names
        return ()

    def split_scores(self, stage: Stage) -> dict[str, float]:
        """Score the split by what its metrics hold, and reset them; all ranks call this together at its end."""
        del stage
        return {}

    def official_files(self, rows: Rows) -> dict[str, str]:
        """Return the files that a leaderboard asks for, name and content; ``rows`` are all predictions by id."""
        del rows
        return {}

    def add_scores(self, names: Iterable[str]) -> None:
        """Make a summed score for each name, for validation and test apart."""
        for stage in EVALUATED:
            self._scores[stage.value] = nn.ModuleDict({name: Ratio() for name in names})

    @property
    def score_names(self) -> list[str]:
        """Return the names of the summed scores, without split; losses are among them."""
        split = self._scores[Stage.VAL.value] if Stage.VAL.value in self._scores else nn.ModuleDict()
        assert isinstance(split, nn.ModuleDict)
        return list(split)

    def score(self, stage: Stage, name: str, hits: Tensor, total: Tensor) -> None:
        """Count ``hits`` out of ``total``, both ().

        In training the share is logged; where nothing was judged, that of the latest micro-batch with something to
        judge, for the host would have to wait for the device to leave it out.
        """
        if stage is Stage.TRAIN:
            share = hits.detach() / total  # not a number where nothing was judged
            self._shares[name] = torch.where(total > 0, share, self._shares.get(name, share))
            self.log(f"train/{name}", self._shares[name])
            return
        split = self._scores[stage.value]
        assert isinstance(split, nn.ModuleDict)
        ratio = split[name]
        assert isinstance(ratio, Ratio)
        ratio.update(hits.detach(), total)

    def on_train_start(self) -> None:
        """Let this start's learning rates hold: a resumed optimiser brings those along that it was saved with."""
        for optimizer, configured in zip(self.trainer.optimizers, self.trainer.lr_scheduler_configs, strict=True):
            assert isinstance(configured.scheduler, LambdaLR)
            renew(optimizer, configured.scheduler, self, self.optim)

    def training_step(self, batch: Batch) -> Tensor:
        """Run one micro-batch; dropout is a function of seed, step and micro-batch, not of the rank.

        Returns:
            The loss (); not a number on all ranks as soon as that of one is not finite, so that all know (see
            `vle_lightning.callbacks.health`). The host does not wait for the device to find out.
        """
        torch.manual_seed(micro_batch_seed(self.seed, batch.step, batch.number))
        loss = self.step(batch, Stage.TRAIN)
        own = loss.detach()
        finite = torch.isfinite(own)
        shown = own if self._finite_loss is None else torch.where(finite, own, self._finite_loss)
        self.own_loss, self._finite_loss = own, shown
        self.log("train/loss", shown, prog_bar=True)
        return torch.where(any_rank(~finite), torch.nan, loss)

    def validation_step(self, batch: Batch) -> None:
        """Score one micro-batch of the validation split."""
        self.step(batch, Stage.VAL)

    def test_step(self, batch: Batch) -> None:
        """Score one micro-batch of the test split."""
        self.step(batch, Stage.TEST)

    def on_validation_epoch_end(self) -> None:
        """Log the split's scores."""
        self._log_split(Stage.VAL)

    def on_test_epoch_end(self) -> None:
        """Log the split's scores."""
        self._log_split(Stage.TEST)

    def _log_split(self, stage: Stage) -> None:
        split = self._scores[stage.value]
        assert isinstance(split, nn.ModuleDict)
        for name, ratio in split.items():
            assert isinstance(ratio, Ratio)
            value = ratio.compute()
            ratio.reset()
            self._log_score(stage, name, float(value), shown=stage is Stage.VAL)
        for name, share in self.split_scores(stage).items():
            self._log_score(stage, name, share, shown=f"{stage.value}/{name}" == self.monitor)

    def _log_score(self, stage: Stage, name: str, value: float, shown: bool) -> None:
        if not math.isnan(value):  # nothing to judge in this split
            self.log(f"{stage.value}/{name}", value, prog_bar=shown)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make AdamW with a linear schedule over the optimiser steps of the whole run."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = make_optimizer(self, self.optim, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"},
        }


def differ(pixels: tuple[Colours, Colours], others: tuple[Colours, Colours]) -> bool:
    """Compare means and standard deviations, up to what was rounded."""
    pairs = zip((*pixels[0], *pixels[1]), (*others[0], *others[1]), strict=True)
    return any(abs(one - other) > ROUNDED for one, other in pairs)


def micro_batch_seed(seed: int, step: int, number: int) -> int:
    """Mix seed, step and micro-batch number into a 63-bit seed."""
    digest = hashlib.blake2b(f"{seed}/{step}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
