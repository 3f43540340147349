"""Pre-training on images alone: masked image modelling (VLMo's first stage, BEiT)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from vle_lightning.batch import DataFacts, ImageBatch
from vle_lightning.hub.architecture import Architecture
from vle_lightning.hub.pretrained import Pretrained
from vle_lightning.metrics.majority import Majority
from vle_lightning.models.backbone import Blind, Modality
from vle_lightning.objectives.base import Hiding
from vle_lightning.objectives.image_codes import ImageCodes
from vle_lightning.optim import OptimConfig
from vle_lightning.tasks.base import EVALUATED, Stage
from vle_lightning.tasks.unimodal import UnimodalTask

HEAD = "image_codes"


class PretrainImagesTask(UnimodalTask):
    """Predicts the codes of hidden patches.

    Beside the share of right codes, on all hidden patches and on those that touch an object, stands that of the most
    frequent code (majority): most of a picture is background.
    """

    modality: ClassVar[Modality] = "image"

    def __init__(
        self,
        architecture: Architecture = "vlmo-base",
        codes: int = 64,
        hiding: Hiding = "vector",
        freeze: list[str] | None = None,
        init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder and the head.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            codes: how many codes of patches are told apart; the data module's ``codebook`` has as many.
            hiding: what stands for hidden patches: a learned vector, or black pixels.
            freeze: parts of the encoder that stay as they are, such as ``blocks.attention``; none by default.
            init: a checkpoint or run folder to start from.
            blind: none; there is one modality only.
            optim: learning rates and schedule.
            seed: of dropout.

        Raises:
            UserError: ``freeze`` names what is not there.
        """
        super().__init__(architecture, freeze or (), optim, seed, blind)
        self.objectives = nn.ModuleDict({HEAD: ImageCodes(self.model, codes, hiding)})
        self.options = {"codes": codes, "hiding": hiding, "freeze": list(freeze or ())}
        self.add_scores([*ImageCodes.score_names, "loss"])
        self._majorities = nn.ModuleDict(
            {stage.value: nn.ModuleList(Majority(codes) for _ in range(2)) for stage in EVALUATED}
        )
        self.start(init, self.heads())

    @classmethod
    def options_of(cls, pretrained: Pretrained) -> dict[str, Any]:
        """Count the codes of a head that a source holds."""
        bias = pretrained.heads.get(HEAD, {}).get("head.bias")
        return {} if bias is None else {"codes": len(bias)}

    @property
    def objective(self) -> ImageCodes:
        """The one objective."""
        objective = self.objectives[HEAD]
        assert isinstance(objective, ImageCodes)
        return objective

    def own_heads(self) -> dict[str, nn.Module]:
        """Return the head over codes."""
        return {HEAD: self.objective}

    def step(self, batch: ImageBatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Encode the images without their hidden patches, and judge these."""
        objective = self.objective
        if stage in EVALUATED:
            for metric, counts in zip(self._of(stage), objective.counts(batch), strict=True):
                metric.update(counts)
        return self.conclude(objective(objective.states(self.model, batch), batch), stage)

    def split_scores(self, stage: Stage) -> dict[str, float]:
        """Return the shares of the most frequent code, on all hidden patches and on those that touch an object."""
        scores = {}
        for name, metric in zip(("majority", "object_majority"), self._of(stage), strict=True):
            scores[f"{HEAD}_{name}"] = float(metric.compute())
            metric.reset()
        return scores

    def disagreements(self, facts: DataFacts) -> list[str]:
        """Add the number of codes."""
        found = super().disagreements(facts)
        if facts.codes != self.objective.codes:
            found.append(f"data.codebook has {facts.codes} codes, but model.codes is {self.objective.codes}")
        return found

    def _of(self, stage: Stage) -> list[Majority]:
        metrics = self._majorities[stage.value]
        assert isinstance(metrics, nn.ModuleList)
        return [metric for metric in metrics if isinstance(metric, Majority)]


Task = PretrainImagesTask
