"""Pre-training on texts alone: masked language modelling (VLMo's second stage)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from vle_lightning.batch import TextBatch
from vle_lightning.hub.architecture import Architecture
from vle_lightning.hub.pretrained import Pretrained
from vle_lightning.models.backbone import Blind, Modality
from vle_lightning.objectives.text_mlm import TextMLM
from vle_lightning.optim import OptimConfig
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.unimodal import UnimodalTask

HEAD = "mlm_score"  # MLM's published name: training on pairs starts from it


class PretrainTextsTask(UnimodalTask):
    """Restores masked words.

    VLMo's second stage keeps what the first has learned: ``freeze: [blocks.attention, blocks.norm, blocks.scale_1,
    blocks.scale_2]`` trains embeddings, token types, the text's experts with their norms, position biases, the last
    norm and the head. Experts of images and of pairs are not read, and so they never train here.
    """

    modality: ClassVar[Modality] = "text"

    def __init__(
        self,
        architecture: Architecture = "vlmo-base",
        tied: bool = False,
        freeze: list[str] | None = None,
        init: str | None = None,
        image_init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder and the head.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            tied: MLM's decoder is the table of word embeddings (VLE); else it has weights of its own (VLMo).
            freeze: parts of the encoder that stay as they are, such as ``blocks.attention``; none by default.
            init: a checkpoint or run folder to start from, such as one of pre-training on images alone.
            image_init: a BEiT to start attention and image experts from, as VLMo does: timm:NAME, or a file; without
                ``init``.
            blind: none; there is one modality only.
            optim: learning rates and schedule.
            seed: of dropout.

        Raises:
            UserError: ``freeze`` names what is not there.
        """
        super().__init__(architecture, freeze or (), optim, seed, blind)
        self.objectives = nn.ModuleDict({"mlm": TextMLM(self.model, tied)})
        self.options = {"tied": tied, "freeze": list(freeze or ())}
        self.add_scores([*TextMLM.score_names, "loss"])
        self.start(init, self.heads())
        self.start_encoders(init, image_init=image_init)

    @classmethod
    def options_of(cls, pretrained: Pretrained) -> dict[str, Any]:
        """Find out of what form the head is that a source holds."""
        head = pretrained.heads.get(HEAD)
        return {} if head is None else {"tied": "transform.3.weight" in head}

    @property
    def objective(self) -> TextMLM:
        """The one objective."""
        objective = self.objectives["mlm"]
        assert isinstance(objective, TextMLM)
        return objective

    def published_heads(self) -> dict[str, nn.Module]:
        """Return MLM's head."""
        return {HEAD: self.objective.head}

    def step(self, batch: TextBatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Encode the masked texts, and judge what was masked."""
        objective = self.objective
        return self.conclude(objective(objective.states(self.model, batch), batch), stage)


Task = PretrainTextsTask
