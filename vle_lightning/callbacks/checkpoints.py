"""When a run saves: after each validation, every so many steps, and when it is told to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_warn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from vle_lightning.callbacks.steps import ends_step
from vle_lightning.checkpointing.store import Best, CheckpointStore, describe, verify, write
from vle_lightning.distributed import gather_objects, of_first_rank
from vle_lightning.errors import UserError
from vle_lightning.strategies.base import WritesFolders
from vle_lightning.tasks.base import VisionLanguageTask

LEAST_USABLE = 0.5  # share of a validation's samples; the score of fewer selects nothing


class Checkpoints(Checkpoint):
    """Saves at the ends of optimiser steps alone: an engine may not keep what it has accumulated within one.

    A save that fails, on a full disk say, leaves the earlier ones alone; the run goes on and says so.
    """

    def __init__(
        self,
        store: CheckpointStore,
        save_every: int | None = None,
        validate_every: int | None = None,
        saving: Callable[[], AbstractContextManager[None]] = nullcontext,
        usable: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """Look after the checkpoints of a run.

        Args:
            store: of the run folder.
            save_every: optimiser steps; after each validation alone by default.
            validate_every: optimiser steps; each epoch by default.
            saving: a context that tells others what this rank is at.
            usable: tells the share of the latest validation's samples that could be used.
        """
        self.store, self.save_every, self.validate_every, self.saving = store, save_every, validate_every, saving
        self.usable = usable
        self._record: dict[str, object] | None = None  # of the store, as it will be once this step is saved
        self._saved: int | None = None  # the step of the latest save

    def on_fit_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Tidy up what a kill has left."""
        if trainer.is_global_zero:
            self.store.clean()

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Put aside what was saved of later steps than this start goes on from."""
        if trainer.is_global_zero and (moved := self.store.rewind(trainer.global_step)):
            rank_zero_warn(
                f"this run goes on from step {trainer.global_step}; what an earlier start saved of later steps is now "
                + ", ".join(map(str, moved))
            )
        if self.owes_validation(trainer):
            validate_now(trainer)

    def owes_validation(self, trainer: L.Trainer) -> bool:
        """Say whether the step that a run goes on from was saved, but its validation cut short; all ranks ask."""
        step = trainer.global_step
        due = step == trainer.max_steps or (self.validate_every is not None and step % self.validate_every == 0)
        # a run that goes on under another name has not got the step's checkpoint here
        return due and of_first_rank(
            trainer.is_global_zero and self.store.path(step).exists() and self.store.validated() != step
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save every so many steps."""
        if self.save_every and ends_step(trainer, batch_idx) and trainer.global_step % self.save_every == 0:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Save, and mark the best."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        best = self._best_with(trainer, task)
        self._record = describe(trainer.global_step, best)  # travels in the checkpoint, so that a lost record is fixed
        if self.save(trainer) and trainer.is_global_zero:
            failure = _failure(lambda: self.store.judge(trainer.global_step, best))
            if failure is not None:  # the step is safe, and the checkpoint carries what could not be noted
                rank_zero_warn(f"the validation of step {trainer.global_step} could not be noted: {failure}")

    def judge(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Compare the score of a step that was saved before it was validated with that of the best checkpoint."""
        if trainer.is_global_zero:
            self.store.judge(trainer.global_step, self._best_with(trainer, task))

    def _best_with(self, trainer: L.Trainer, task: L.LightningModule) -> Best | None:
        """Return the best checkpoint, this step's score considered; one that means nothing selects nothing."""
        assert isinstance(task, VisionLanguageTask)
        step, best = trainer.global_step, self.store.best_so_far()
        score = float(trainer.callback_metrics.get(task.monitor, math.nan))
        if not math.isfinite(score):
            return best
        if (usable := self.usable()) < LEAST_USABLE:
            rank_zero_warn(f"step {step} cannot be the best: {usable:.0%} of the validation's samples could be used")
            return best
        better = best is None or (score < best.score if task.monitor_mode == "min" else score > best.score)
        return Best(step, score, f"{task.monitor_mode} {task.monitor}") if better else best

    def state_dict(self) -> dict[str, object]:
        """Return what ``checkpoints.json`` says, or will say once this step is saved."""
        return dict(self._record or describe(self.store.validated(), self.store.best_so_far()))

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        """Change nothing: the run folder's own record counts, unless it is lost (`CheckpointStore`)."""

    def saved_step(self, trainer: L.Trainer) -> int:
        """Return the step of the newest checkpoint, the same on all ranks; this step's if nothing is kept at all."""
        newest = self.store.newest()
        step = None if newest is None else self.store.step_of(newest)
        return of_first_rank(trainer.global_step if step is None else step)

    def save(self, trainer: L.Trainer) -> bool:
        """Save the state of this step, once; all ranks call this together and return the same.

        Returns:
            Whether the step is on the disk, verified.
        """
        step = trainer.global_step
        if self._saved == step:
            return True
        if (sick := _any(not_finite_weight(trainer.lightning_module))) is not None:
            kept = self.store.newest()
            raise UserError(
                f"the weights are no longer finite (NaN or infinity) after step {step}, such as {sick}: "
                + (f"{kept} is the last sound checkpoint. " if kept else "nothing was saved. ")
                + "Lower model.optim.lr"
            )
        with self.saving():
            failure = _any(_failure(lambda: self.store.make_room(step)) if trainer.is_global_zero else None)
            failure = failure or _any(_failure(lambda: self._write(trainer, step)))
            failure = failure or _any(_failure(lambda: self.store.commit(step)) if trainer.is_global_zero else None)
        if failure is not None:
            if trainer.is_global_zero:
                self.store.make_room(step)  # what there is of it would keep the disk full
            kept = self.store.newest()
            rank_zero_warn(
                f"step {step} could not be saved: {failure}. "
                + (f"{kept} is there as before; the run goes on" if kept else "Nothing is saved yet; the run goes on")
            )
            return False
        self._saved = step
        return True

    def _write(self, trainer: L.Trainer, step: int) -> None:
        """Gather the state, write it aside and read it back."""
        strategy, path = trainer.strategy, self.store.unfinished(step)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if isinstance(strategy, WritesFolders) and strategy.sharded_checkpoints:
            strategy.save_checkpoint(checkpoint, path)
        elif trainer.is_global_zero:
            write(checkpoint, path)
        if trainer.is_global_zero:
            verify(path, step)

    def selected(self, trainer: L.Trainer) -> tuple[str, str]:
        """Return the name of the checkpoint that the run ends with, and by what it was selected.

        Raises:
            UserError: nothing could be saved.
        """
        if not of_first_rank(self.store.best.exists()):
            self.save(trainer)
        best = self.store.best_so_far()
        chosen = self.store.best if self.store.best.exists() else self.store.last
        rule = best.rule if best else "the last saved step, for none was validated with a score that counts"
        name = of_first_rank(chosen.name if chosen.exists() else None)
        if name is None:
            raise UserError(f"nothing could be saved in {self.store.folder}: is the disk full?")
        return name, rule


def not_finite_weight(task: L.LightningModule) -> str | None:
    """Return the name of a weight, as far as this rank has it, that is not finite; the host waits once for all."""
    parts = {
        name: value.to_local() if isinstance(value, DTensor) else value
        for name, value in task.named_parameters()
        if value.numel()
    }
    if not parts:  # ZeRO-3's are elsewhere
        return None
    sums = torch.stack([part.detach().sum(dtype=torch.float32) for part in parts.values()])
    if bool(torch.isfinite(sums).all()):
        return None
    return next((name for name, part in parts.items() if not torch.isfinite(part).all()), None)


def validate_now(trainer: L.Trainer) -> None:
    """Validate at the start of a fit, as Lightning does at the end of a step."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True


def _failure(act: Callable[[], object]) -> str | None:
    """Do something; return what went wrong with the disk."""
    try:
        act()
    except (OSError, UserError, CheckpointException) as error:
        return " ".join(str(error).split())
    return None


def _any(failure: str | None) -> str | None:
    """Return the failure of any rank; all ranks call this together."""
    return next(filter(None, gather_objects(failure)), None)
