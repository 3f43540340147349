"""Pre-training on image-text pairs with boxes: all objectives in one step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from vle_lightning.batch import DataFacts, PretrainBatch
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.hub.pretrained import Pretrained
from vle_lightning.models.backbone import Blind
from vle_lightning.objectives.base import (
    Hiding,
    Objective,
    ObjectiveOptions,
    ObjectiveOutput,
    find_objective,
    objective_names,
)
from vle_lightning.objectives.contrast import Mining
from vle_lightning.objectives.itc import find_contrast
from vle_lightning.objectives.passes import Encoded, encode_views, fuse_encoded, fuse_views
from vle_lightning.optim import OptimConfig
from vle_lightning.streams import FusedView, ImageView, TextView
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.contrasting import Extras, StepContrast
from vle_lightning.tasks.pictures import Names, Picture, draw_pretraining

PUBLISHED = {  # objective -> the published name of its head, and where in the objective that head is
    "itm": ("itm_score", "head"),
    "itm_hard": ("itm_score", "head"),
    "mlm": ("mlm_score", ""),
    "pbc": ("pbc_classifier", "head"),
}

COUNTED = {  # option -> the head whose outputs it counts, and their bias
    "classes": ("mpc", "region_head.3.bias"),
    "codes": ("mim_codes", "head.3.bias"),
}

CONTRAST = "itc"  # the objective that has a published head for each of its ways

SHARED = ("itm", "itm_hard")  # objectives of one published head

JOINED = ("mlm", "mpc")  # the objectives that may share one pass
Passes = Literal["apart", "joint"]


class PretrainTask(VisionLanguageTask):
    """Weighted sum of objectives over one encoder."""

    monitor = "val/loss"
    monitor_mode: ClassVar[str] = "min"

    def __init__(
        self,
        architecture: Architecture = "vle-base",
        objectives: dict[str, float] | None = None,
        classes: int = 1600,
        codes: int = 64,
        hiding: Hiding = "vector",
        passes: Passes = "apart",
        mining: Mining = "global",
        tied: bool = True,
        init: str | None = None,
        text_init: str | None = None,
        image_init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder and the objectives' heads.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            objectives: weight of each objective by name; all four with weight 1 by default (VLE).
            classes: how many box classes MPC tells apart; the data module's ``classes`` has as many.
            codes: how many codes of patches mim_codes tells apart; the data module's ``codebook`` has as many.
            hiding: what stands for hidden patches, MPC's and MIM's: a learned vector, or black pixels.
            passes: MPC with the clean text, apart from MLM, or joint: one pass with masked text and hidden boxes
                serves both.
            mining: where itm_hard's negatives come from: the whole step on all ranks (VLMo), or the own micro-batch.
            tied: MLM's decoder is the table of word embeddings (VLE); else it has weights of its own (METER).
            init: a checkpoint or run folder to start from.
            text_init: what the text encoder starts from (transformers name or folder); without ``init``.
            image_init: likewise: for a CLIP ViT a transformers name or folder, or open_clip:MODEL/PRETRAINED; for an
                encoder of timm timm:NAME, or a file of its weights; for experts (VLMo) a BEiT likewise.
            blind: the masked modality: image, text or none.
            optim: learning rates and schedule.
            seed: of dropout.

        Raises:
            UserError: an objective is unknown, or needs the masked modality.
        """
        super().__init__(architecture, blind, optim, seed)
        self.weights = {"mlm": 1.0, "itm": 1.0, "mpc": 1.0, "pbc": 1.0} if objectives is None else objectives
        if not self.weights:
            raise UserError("model.objectives is empty; name at least one objective, such as {mlm: 1.0}")
        if not any(self.weights.values()):
            raise UserError("model.objectives: all weights are 0, so that nothing would be learned; weigh one of them")
        if blind == "text":
            raise UserError("model.blind=text: every objective of pre-training reads the text")
        if blind != "none" and set(self.weights) != {"mlm"}:
            raise UserError(f"model.blind={blind}: only the objective mlm can do without; set model.objectives")
        if set(SHARED) <= set(self.weights):
            raise UserError("model.objectives: itm and itm_hard train one head; choose one of them")
        if "itm_hard" in self.weights and "itc" not in self.weights:
            raise UserError("model.objectives: itm_hard draws its negatives by itc's similarities; add itc")
        shared = ObjectiveOptions(classes, hiding, tied, codes)
        heads = {name: find_objective(name).build(self.model, shared) for name in self.weights}
        self.objectives = nn.ModuleDict(heads)
        self.views = {name: head.views for name, head in heads.items()}
        contrast, draws = find_contrast(self._objectives()), "itm_hard" in self.weights
        self._contrast = None if contrast is None else StepContrast(contrast, self.model, mining, draws, seed)
        if passes == "joint" and self.views.keys() >= set(JOINED):
            self.views |= dict.fromkeys(JOINED, FusedView(TextView.MASKED, ImageView.MASKED))
        names = [name for objective in self._objectives() for name in objective.score_names]
        self.add_scores([*names, *(f"{name}_loss" for name in self.weights), "loss"])
        self.options = {
            "objectives": dict(self.weights),
            "classes": classes,
            "codes": codes,
            "hiding": hiding,
            "passes": passes,
            "mining": mining,
            "tied": tied,
        }
        self.start(init, self.published_heads(), tuple(self.heads().keys() - self.published_heads().keys()))
        self.start_encoders(init, text_init, image_init)

    @classmethod
    def options_of(cls, pretrained: Pretrained) -> dict[str, Any]:
        """Take the objectives whose heads are there, and count MPC's classes and MIM's codes."""
        heads = pretrained.heads
        matching = SHARED[0 if "itc" in heads else 1]  # the other one
        found: dict[str, Any] = {
            name: 1.0 for name, (head, _) in PUBLISHED.items() if head in heads and name != matching
        }
        found |= {name: 1.0 for name in objective_names() if name not in PUBLISHED and heads.get(name)}
        counted = {
            option: len(bias)
            for option, (name, key) in COUNTED.items()
            if (bias := heads.get(name, {}).get(key)) is not None
        }
        tied = "transform.3.weight" in heads.get("mlm_score", {"transform.3.weight": None})
        return {"objectives": found, "tied": tied, **counted} if found else {}

    def published_heads(self) -> dict[str, nn.Module]:
        """Return the heads of MLM, ITM, PBC and contrast, as far as these objectives are in use."""
        used = {name: places for name, places in PUBLISHED.items() if name in self.objectives}
        heads = {head: self.objectives[name].get_submodule(part) for name, (head, part) in used.items()}
        contrast = find_contrast(self._objectives())
        return heads if contrast is None else {**heads, **contrast.named_heads()}

    def heads(self) -> dict[str, nn.Module]:
        """Return all heads; those of other objectives than VLE's three are not published, and have their names."""
        others = {name: self.objectives[name] for name in self.objectives if name not in (*PUBLISHED, CONTRAST)}
        return {**self.published_heads(), **others}

    def step(self, batch: PretrainBatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Encode each view once, fuse all pairs in one call, and sum the weighted losses."""
        outputs = self.judge(batch, is_whole=stage is not Stage.TRAIN)
        losses = [self.weights[name] * output.loss for name, output in outputs.items()]
        total = torch.stack(losses).sum()
        for name, output in outputs.items():
            rows = output.judged.clamp(max=1)
            self.score(stage, f"{name}_loss", output.loss.detach() * rows, rows)
            for score in output.scores:
                self.score(stage, *score)
        if stage is not Stage.TRAIN:
            counts = batch.valid.any().to(total.dtype)  # a micro-batch of fillers does not
            self.score(stage, "loss", total.detach() * counts, counts)
        return total

    @property
    def trains_all(self) -> bool:
        """Say whether there is ITM, which reads the poolers, and contrast where some weights are for it alone."""
        pools = bool(set(SHARED) & set(self.weights))
        return pools and ("itc" in self.objectives or not self.model.alone_trains)

    @property
    def looks_ahead(self) -> bool:
        """Say whether there is contrast: it needs all micro-batches of a step from its start on."""
        return self._contrast is not None

    @property
    def predicts(self) -> bool:
        """Say whether there is ITM, whose matches are predicted."""
        return "itm" in self.objectives

    def predict_step(self, batch: PretrainBatch) -> list[dict[str, object]]:
        """Return for each valid image the text beside it, whether it is its own, and ITM's probability of a match."""
        itm = self.objectives["itm"]
        assert isinstance(itm, Objective)
        (fused,) = fuse_views(self.model, batch, [itm.views])
        matches = itm.get_submodule("head")(fused.pooled).float().softmax(-1)[:, 1].tolist()
        rows = zip(batch.sample_ids, batch.partner.tolist(), matches, batch.valid.tolist(), strict=True)
        return [
            {
                "id": name,
                "text": batch.sample_ids[other],
                "target": batch.sample_ids[other] == name,
                "probability": match,
            }
            for name, other, match, valid in rows
            if valid
        ]

    def disagreements(self, facts: DataFacts) -> list[str]:
        """Add the number of classes, and what masked image modelling and matching need."""
        found, classes, codes = super().disagreements(facts), self.options["classes"], self.options["codes"]
        if facts.classes is not None and facts.classes > classes:
            found.append(f"data.classes has {facts.classes} classes, but model.classes is {classes}")
        masking = [name for name, view in self.views.items() if view.image is ImageView.PATCHES]
        if masking and not facts.patch_share:
            found.append(
                f"data.patch_share is 0, but model.objectives has {' and '.join(masking)}: set it to the share of the "
                "patches to hide, such as 0.15"
            )
        matching = [name for name in SHARED if name in self.objectives]
        if matching and facts.mismatches is False:
            found.append(f"data.itm_images is none, but {matching[0]} of model.objectives learns from mismatches")
        if "mim_codes" in self.objectives and facts.codes is None:
            found.append("data.codebook is not set, but model.objectives has mim_codes, which predicts its codes")
        elif "mim_codes" in self.objectives and facts.codes != codes:
            found.append(f"data.codebook has {facts.codes} codes, but model.codes is {codes}")
        return found

    def judge(self, batch: PretrainBatch, *, is_whole: bool = True) -> dict[str, ObjectiveOutput]:
        """Run all objectives on one micro-batch; of those that hide patches of one view, the first has its vector.

        Args:
            batch: B pairs.
            is_whole: contrast compares these pairs alone, not the other micro-batches of the step.
        """
        if self._contrast and batch.ahead and not is_whole:
            self._contrast.look_ahead(batch, self._encode)
        objectives = self._objectives()
        encoded, extras = self._encode(batch), Extras()
        if self._contrast:
            encoded, extras = self._contrast.extend(batch, encoded, is_whole=is_whole)
        views = {objective.name: self.views[objective.name] for objective in objectives if objective.fuses}
        readings = [objective.reading(batch) for objective in objectives if objective.fuses]
        passes = fuse_encoded(self.model, batch, encoded, list(views.values()), readings)
        fused = dict(zip(views, passes, strict=True))
        return {
            objective.name: objective(
                fused.get(objective.name),
                batch,
                *(encoded.images[kind] for kind in objective.reads),
                *(extras[kind] for kind in objective.extras),
            )
            for objective in objectives
        }

    def _encode(self, batch: PretrainBatch) -> Encoded:
        objectives = self._objectives()
        vectors = {view: vector for objective in reversed(objectives) for view, vector in objective.vectors().items()}
        read = [kind for objective in objectives for kind in objective.reads]
        return encode_views(self.model, batch, self.views.values(), vectors, also=read)

    def pictures(self, batch: PretrainBatch, names: Names) -> Iterable[Picture]:  # type: ignore[override]
        """Draw boxes, the PBC heat map and the MPC and MLM guesses of a few pairs."""
        return draw_pretraining(self.model, self._objectives(), self.views, batch, names)

    def _objectives(self) -> list[Objective]:
        return [objective for objective in self.objectives.values() if isinstance(objective, Objective)]


Task = PretrainTask
