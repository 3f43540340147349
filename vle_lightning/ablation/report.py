"""What the page of a study shows, and where its page, its curves and its runs lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vle_lightning.ablation.keys import as_mapping, as_names, check_keys
from vle_lightning.errors import UserError

PRETRAIN, FINETUNE = STAGES = ("pretrain", "finetune")
COSTS = {  # name in a study file -> title of the column, what it says
    "parameters": ("parameters (M)", "*parameters*: of the backbone, without heads."),
    "flops": (
        "GFLOPs a pair",
        "*GFLOPs a pair*: of pre-training, forward and backward, as the run counted them.",
    ),
    "seconds": (
        "s/step",
        "*s/step*: of pre-training, in the fastest stretch of a run, for other jobs slow it down; as many runs at a "
        "time as there were cores.",
    ),
    "minutes": (
        "minutes",
        "*minutes*: of a seed's training, validation and start, averaged over seeds, beside whatever else the machine "
        "did; fine-tuning's alone where a row has no pre-training of its own.",
    ),
}
METER_SCORES = {"itm_accuracy": PRETRAIN, "mlm_content_accuracy": PRETRAIN, "vqa_accuracy": FINETUNE}
REPORT = {"scores", "costs", "out", "run_root", "curves"}


@dataclass(frozen=True)
class Report:
    """Columns of the tables, and places.

    Attributes:
        scores: name -> stage, in the order of the columns.
        costs: columns of `COSTS` before them.
        page: the file that the tables go to.
        run_root: folder of the run folders.
        curves: the files of the learning curves without their endings; None: none are written.
    """

    scores: Mapping[str, str] = field(default_factory=lambda: METER_SCORES)
    costs: tuple[str, ...] = ("parameters", "flops", "seconds")
    page: Path = Path("experiments/ablations/README.md")
    run_root: Path = Path("checkpoints/ablations")
    curves: Path | None = None

    @property
    def deciding(self) -> str:
        """Return the score that the plot shows: the first of fine-tuning."""
        return next(name for name, stage in self.scores.items() if stage == FINETUNE)


def read_report(content: Mapping[str, Any], where: str) -> Report:
    """Read the keys of a study file that say how it is reported; what is not given is METER's.

    Raises:
        UserError: a score or a column cannot be.
    """
    given: dict[str, Any] = {}
    if "scores" in content:
        scores = as_mapping(content["scores"], f"{where}: scores")
        check_keys(scores, set(STAGES), f"{where}: scores", needed=(FINETUNE,))
        named = {stage: as_names(names, f"{where}: scores.{stage}") for stage, names in scores.items()}
        given["scores"] = {name: stage for stage, names in named.items() for name in names}
    if "costs" in content:
        given["costs"] = as_names(content["costs"], f"{where}: costs")
        if unknown := [name for name in given["costs"] if name not in COSTS]:
            raise UserError(f"{where}: costs: there is no {', '.join(unknown)}; choose from {', '.join(COSTS)}")
    for key, name in (("out", "page"), ("run_root", "run_root"), ("curves", "curves")):
        if key in content:
            if not isinstance(content[key], str) or not content[key]:
                raise UserError(f"{where}: {key} is a path, not {content[key]!r}")
            given[name] = Path(content[key])
    return Report(**given)
