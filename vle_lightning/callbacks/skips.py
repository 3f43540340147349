"""Samples that could not be used, or not whole: counted, listed, and too many lost ones end the run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from vle_lightning.batch import Batch, Skip
from vle_lightning.callbacks.steps import is_logged
from vle_lightning.distributed import gather_objects
from vle_lightning.errors import UserError


class Kind(NamedTuple):
    """What is counted together."""

    name: str
    lost: bool  # the whole sample
    split: str  # train, val, test or predict


class SkipReport(Callback):
    """Counts ``Batch.skipped`` by kind, lists each in ``skips.jsonl``, and ends the run above a share.

    The share is that of all ranks, so that they end together: they tell each other their counts at the steps that are
    logged, and at the end of a split.
    """

    def __init__(self, folder: Path, limit: float, judged_after: int = 1000) -> None:
        """Watch over one run.

        Args:
            folder: the run folder.
            limit: share of the samples of a split that may be lost.
            judged_after: samples seen before the share means anything.
        """
        self.file, self.limit, self.judged_after = folder / "skips.jsonl", limit, judged_after
        self.counts: Counter[Kind] = Counter()  # over all ranks, as of the last validation or checkpoint
        self._local: Counter[Kind] = Counter()
        self._carried: Counter[Kind] = Counter()  # from before a resume
        self._seen: Counter[str] = Counter()  # samples by split
        self._seen_by_all = 0  # in the latest validation
        self._written: set[Skip] = set()

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Count, and stop the run where too much is lost."""
        self._count(batch, "train")
        if is_logged(trainer, batch_idx):
            told_by_ranks = gather_objects((self._local, self._seen["train"]))
            counts = sum((counts for counts, _ in told_by_ranks), start=Counter[Kind]())
            self._judge("train", counts, sum(seen for _, seen in told_by_ranks))

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Count each validation anew."""
        self._forget("val")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count what validation left out."""
        self._count(batch, "val")

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count what the test left out."""
        self._count(batch, "test")

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        task: L.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count what prediction left out."""
        self._count(batch, "predict")

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Add up the ranks, log the counts, and stop where the scores would be of too few samples."""
        self._add_up()
        for logger in trainer.loggers:
            values = {
                f"skipped/{kind.split}/{kind.name.replace(' ', '_')}": float(n) for kind, n in self.counts.items()
            }
            logger.log_metrics(values, step=trainer.global_step - 1)
        self._seen_by_all = sum(gather_objects(self._seen["val"]))
        self._judge("val", self.counts, self._seen_by_all)
        lost = lost_samples(self.counts, "val")
        if lost > self.limit * self._seen_by_all:  # too few to end a run by, not too few to know of
            rank_zero_warn(
                f"{lost} of {self._seen_by_all} samples of val could not be used ({told(self.counts, 'val')}); "
                f"{self.file} lists them"
            )

    def usable_share(self) -> float:
        """Return the share of the latest validation's samples, of all ranks, that could be used; 1 where none was."""
        return 1 - lost_samples(self.counts, "val") / max(self._seen_by_all, 1)

    def on_test_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Say what was left out, and stop where that is too much."""
        self._close("test")

    def on_predict_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Say what was left out."""
        self._close("predict")

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Say what was left out."""
        self._close("train")

    def state_dict(self) -> dict[str, list[tuple[str, bool, str, int]]]:
        """Return the counts of training over all ranks, for a resume; every rank saves at the same time."""
        self._add_up()
        return {"counts": [(*kind, count) for kind, count in self.counts.items() if kind.split == "train"]}

    def load_state_dict(self, state_dict: dict[str, list[tuple[str, bool, str, int]]]) -> None:
        """Continue counting; a checkpoint that is loaded after training counts nothing anew."""
        if self._seen["train"]:
            return
        self._carried = Counter({Kind(name, lost, split): count for name, lost, split, count in state_dict["counts"]})

    def _count(self, batch: Batch, split: str) -> None:
        self._seen[split] += len(batch) + sum(skip.lost for skip in batch.skipped)
        self._local.update(Kind(skip.kind, skip.lost, split) for skip in batch.skipped)
        new = [skip for skip in batch.skipped if skip not in self._written]
        if new:
            self._written.update(new)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            rows = [{"split": split, "step": batch.step, **skip._asdict()} for skip in new]
            with self.file.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))

    def _forget(self, split: str) -> None:
        self._seen[split] = 0
        self._local = Counter({kind: count for kind, count in self._local.items() if kind.split != split})

    def _judge(self, split: str, counts: Counter[Kind], seen: int) -> None:
        lost = lost_samples(counts, split)
        if seen >= self.judged_after and lost > self.limit * seen:
            raise UserError(
                f"{lost} of {seen} samples of {split} could not be used ({told(counts, split)}), more than "
                f"max_skipped={self.limit:.2%}; {self.file} lists them: fix the data or raise the limit"
            )

    def _close(self, split: str) -> None:
        self._add_up()
        if counts := told(self.counts, split):
            rank_zero_info(f"skipped in {split}: {counts}; {self.file} lists them")
        if split == "test":
            self._judge(split, self.counts, sum(gather_objects(self._seen[split])))

    def _add_up(self) -> None:
        self.counts = sum(gather_objects(self._local), start=Counter(self._carried))


def lost_samples(counts: Counter[Kind], split: str) -> int:
    """Return how many whole samples of a split were left out."""
    return sum(count for kind, count in counts.items() if kind.lost and kind.split == split)


def told(counts: Counter[Kind], split: str) -> str:
    """Name the kinds of a split, the most frequent first."""
    return ", ".join(f"{kind.name}: {count}" for kind, count in counts.most_common() if kind.split == split)
