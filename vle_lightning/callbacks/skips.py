"""Samples that could not be used, or not whole: counted, listed, and too many lost ones end the run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from vle_lightning.batch import Batch, Skip
from vle_lightning.callbacks.gather import gather_objects
from vle_lightning.errors import UserError


class Kind(NamedTuple):
    """What is counted together."""

    name: str
    lost: bool  # the whole sample


class SkipReport(Callback):
    """Counts ``Batch.skipped`` by kind, lists each in ``skips.jsonl``, and ends the run above a share."""

    def __init__(self, folder: Path, limit: float, judged_after: int = 1000) -> None:
        """Watch over one run.

        Args:
            folder: the run folder.
            limit: share of the samples that may be skipped.
            judged_after: samples that a rank sees before the share means anything.
        """
        self.file, self.limit, self.judged_after = folder / "skips.jsonl", limit, judged_after
        self.counts: Counter[Kind] = Counter()  # over all ranks, as of the last validation
        self._local: Counter[Kind] = Counter()
        self._carried: Counter[Kind] = Counter()  # from before a resume
        self._seen = 0
        self._written: set[Skip] = set()

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Count, and stop the run where too much is lost."""
        self._seen += len(batch) + sum(skip.lost for skip in batch.skipped)
        self._local.update(Kind(skip.kind, skip.lost) for skip in batch.skipped)
        self._write(batch, "train")
        lost = lost_samples(self._local)
        if self._seen >= self.judged_after and lost > self.limit * self._seen:
            raise UserError(
                f"{lost} of {self._seen} training samples could not be used ({_told(self._local)}), more "
                f"than max_skipped={self.limit:.2%}; {self.file} lists them: mend the data or raise the limit"
            )

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """List what validation left out."""
        self._write(batch, "val")

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Add up the ranks and log the counts."""
        self._add_up()
        for logger in trainer.loggers:
            values = {f"skipped/{kind.name.replace(' ', '_')}": float(n) for kind, n in self.counts.items()}
            logger.log_metrics(values, step=trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Say what was left out."""
        self._add_up()
        if self.counts:
            rank_zero_info(f"skipped samples: {_told(self.counts)}; {self.file} lists them")

    def state_dict(self) -> dict[str, list[tuple[str, bool, int]]]:
        """Return the counts, for a resume."""
        return {"counts": [(*kind, count) for kind, count in self.counts.items()]}

    def load_state_dict(self, state_dict: dict[str, list[tuple[str, bool, int]]]) -> None:
        """Continue counting."""
        self._carried = Counter({Kind(name, lost): count for name, lost, count in state_dict["counts"]})

    def _add_up(self) -> None:
        self.counts = sum(gather_objects(self._local), start=Counter(self._carried))

    def _write(self, batch: Batch, split: str) -> None:
        new = [skip for skip in batch.skipped if skip not in self._written]
        if new:
            self._written.update(new)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            rows = [{"split": split, "step": batch.step, **skip._asdict()} for skip in new]
            with self.file.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))


def lost_samples(counts: Counter[Kind]) -> int:
    """Return how many whole samples were left out."""
    return sum(count for kind, count in counts.items() if kind.lost)


def _told(counts: Counter[Kind]) -> str:
    return ", ".join(f"{kind.name}: {count}" for kind, count in counts.most_common())
