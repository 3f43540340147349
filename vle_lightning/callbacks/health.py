"""Steps whose loss or gradient is not finite: they update nothing and are listed; several in a row end the run."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from vle_lightning.arrivals import Arrival, send
from vle_lightning.batch import Batch
from vle_lightning.callbacks.steps import ends_step
from vle_lightning.distributed import any_rank, gather_objects
from vle_lightning.errors import UserError
from vle_lightning.strategies.base import OwnsGradients
from vle_lightning.tasks.base import VisionLanguageTask

NAMED = 8  # samples of a micro-batch that a message names; the file has all
LOSS, GRADIENT = "loss", "gradient norm"  # what was not finite


class MicroBatch(NamedTuple):
    """What this rank keeps of a micro-batch until its step is judged."""

    number: int
    sample_ids: tuple[str, ...]
    own_loss: Tensor  # () of this rank alone
    bad: Tensor  # () bool: the loss of some rank is not finite


class Suspect(NamedTuple):
    """A micro-batch of a bad step, of any rank."""

    rank: int
    number: int
    loss: float
    sample_ids: tuple[str, ...]

    def __str__(self) -> str:
        names, more = ", ".join(self.sample_ids[:NAMED]), len(self.sample_ids) - NAMED
        others = f" and {more} more" if more > 0 else ""
        return f"rank {self.rank}, micro-batch {self.number}, loss {self.loss:g}: {names}{others}"


class Verdict(NamedTuple):
    """What the device says of a step; the host reads it when it is there."""

    step: int  # counted from 0, as in the batches
    parts: tuple[MicroBatch, ...]
    found: Arrival  # (3,): whether a loss is not finite, whether the step is bad, and the norm of the gradient

    def read(self) -> tuple[bool, bool, float]:
        """Return what was found."""
        bad_loss, bad, norm = self.found.read().tolist()
        return bool(bad_loss), bool(bad), norm


class BadStep(NamedTuple):
    """A step that was not finite, the same on all ranks."""

    step: int  # counted from 0, as in the batches
    reason: str  # LOSS or GRADIENT
    norm: float  # of the gradient
    suspects: tuple[Suspect, ...]  # of a bad loss the micro-batches that have it, else all

    def __str__(self) -> str:
        shown = "; ".join(map(str, self.suspects[:NAMED]))
        others = f"; and {len(self.suspects) - NAMED} more micro-batches" if len(self.suspects) > NAMED else ""
        return f"step {self.step}, whose {self.reason} is not finite ({shown}{others})"


class Health(Callback):
    """Lets steps that are not finite update nothing, on all ranks together.

    The task poisons the loss of every rank as soon as that of one is not finite, so that the losses tell each rank the
    same. They are looked at once a step, with the norm of the gradient, before it is clipped. Of a bad step AdamW
    changes neither weights nor moments nor its count of steps; the schedule and the data go on. On a GPU the fused
    AdamW is told so on the device, and the host reads a step later what became of it: it never waits for the one in
    hand.

    Where the strategy owns the gradients it is told to skip the step; a gradient that is not finite although all losses
    are is known only when the step is over, and ends the run.
    """

    def __init__(self, folder: Path, limit: int = 3, behind: bool | None = None) -> None:
        """Watch over one run.

        Args:
            folder: the run folder.
            limit: so many bad steps in a row end the run.
            behind: read what became of a step when the next one is made; None: on a GPU.
        """
        self.behind = behind
        self._waiting: deque[Verdict] = deque()
        self.file, self.limit = folder / "bad_steps.jsonl", limit
        self.bad_steps = 0  # of the whole run, over its resumes
        self.gradient_norm: float | None = None  # of the latest step before clipping; None where that was a bad one
        self._in_a_row = 0
        self._streak: list[BadStep] = []  # the latest ones in a row, since the start or resume
        self._step: list[MicroBatch] = []  # of the step that is being made
        self._batch: Batch | None = None
        self._skipping = False  # the strategy was told

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Batch, batch_idx: int) -> None:
        """Keep what a report would name."""
        if self._batch is not None and self._batch.step != batch.step:
            self._step, self._skipping = [], False
        self._batch = batch

    def on_before_backward(self, trainer: L.Trainer, task: L.LightningModule, loss: Tensor) -> None:
        """Keep what the ranks agreed on; a strategy that steps by itself has to know it now."""
        assert isinstance(task, VisionLanguageTask)
        assert self._batch is not None
        assert task.own_loss is not None
        bad = ~torch.isfinite(loss.detach())
        self._step.append(MicroBatch(self._batch.number, self._batch.sample_ids, task.own_loss, bad))
        if isinstance(trainer.strategy, OwnsGradients) and bool(bad):
            trainer.strategy.skip_step()
            self._skipping = True

    def on_before_optimizer_step(self, trainer: L.Trainer, task: L.LightningModule, optimizer: Optimizer) -> None:
        """Judge the step, and drop its gradients if it is bad."""
        if isinstance(trainer.strategy, OwnsGradients):
            return  # shows no gradients, and calls this for every micro-batch
        bad_loss = torch.stack([part.bad for part in self._step]).any()
        norm = total_norm(p for group in optimizer.param_groups for p in group["params"]).to(bad_loss.device)
        bad = bad_loss if is_scaled(trainer) else bad_loss | ~torch.isfinite(norm)
        # one transfer to the host, the only one of a good step; agreed, for on it depends who talks to whom next
        found = torch.stack([bad_loss.float(), any_rank(bad).float(), norm.float()])
        assert self._batch is not None
        verdict = Verdict(self._batch.step, tuple(self._step), send(found))
        behind = found.device.type == "cuda" if self.behind is None else self.behind
        if behind and can_skip(optimizer) and not is_scaled(trainer):
            optimizer.found_inf = found[1]  # type: ignore[attr-defined]  # torch's fused kernels do nothing where it is 1
            self._step = []
            self._waiting.append(verdict)
            self._judge_all_but(1, trainer)
        elif not self._judge(verdict, trainer):
            optimizer.zero_grad(set_to_none=True)
            self._stop_if_too_many()

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Judge the last steps."""
        self._judge_all_but(0, trainer)

    def _judge_all_but(self, kept: int, trainer: L.Trainer) -> None:
        while len(self._waiting) > kept:
            self._judge(self._waiting.popleft(), trainer)
            self._stop_if_too_many()

    def _judge(self, verdict: Verdict, trainer: L.Trainer) -> bool:
        """Count a step, and say whether it was good."""
        bad_loss, bad, norm = verdict.read()
        if bad:
            self._refuse(trainer, verdict.step, verdict.parts, LOSS if bad_loss else GRADIENT, norm)
        else:
            self._accept(norm)
        return not bad

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        """Judge the step that the strategy has made by itself."""
        if not (isinstance(trainer.strategy, OwnsGradients) and ends_step(trainer, batch_idx)):
            return
        norm = trainer.strategy.gradient_norm()
        infinite = torch.tensor(norm is not None and not math.isfinite(norm), device=task.device)
        assert self._batch is not None
        parts = tuple(self._step)
        if self._skipping:
            self._refuse(trainer, self._batch.step, parts, LOSS, math.nan)
            self._stop_if_too_many()
        elif bool(any_rank(infinite)):
            self._refuse(trainer, self._batch.step, parts, GRADIENT, math.inf if norm is None else norm)
            raise UserError(
                f"training has become unstable: {self._streak[-1]}; this strategy tells of it only after the step. "
                f"Lower model.optim.lr, or look at these samples, and go on from the last checkpoint; {self.file} "
                "lists all"
            )
        else:
            self._accept(norm)

    def state_dict(self) -> dict[str, int]:
        """Return the counts, for a resume: also of steps that are not judged yet."""
        bad_steps, in_a_row = self.bad_steps, self._in_a_row
        for verdict in self._waiting:
            _, bad, _ = verdict.read()
            bad_steps, in_a_row = bad_steps + bad, in_a_row + 1 if bad else 0
        return {"bad_steps": bad_steps, "in_a_row": in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on counting; a checkpoint that is loaded after training counts nothing anew."""
        if self._batch is None:
            self.bad_steps, self._in_a_row = state_dict["bad_steps"], state_dict["in_a_row"]

    def _accept(self, norm: float | None) -> None:
        self.gradient_norm, self._in_a_row, self._streak = norm, 0, []
        self._step, self._skipping = [], False

    def _refuse(self, trainer: L.Trainer, step: int, parts: Sequence[MicroBatch], reason: str, norm: float) -> None:
        """Count, gather from all ranks, and list; all ranks call this together."""
        own = [Suspect(trainer.global_rank, part.number, float(part.own_loss), part.sample_ids) for part in parts]
        if reason == LOSS:
            own = [suspect for suspect in own if not math.isfinite(suspect.loss)]
        suspects = sorted(suspect for part in gather_objects(own) for suspect in part)
        bad = BadStep(step, reason, norm, tuple(suspects))
        self.bad_steps += 1
        self._in_a_row += 1
        self._streak.append(bad)
        self.gradient_norm, self._step, self._skipping = None, [], False
        rank_zero_warn(f"nothing was learnt from {bad}; {self.file} lists it, bad step {self.bad_steps} of this run")
        for logger in trainer.loggers:
            logger.log_metrics({"health/bad_steps": float(self.bad_steps)}, step=trainer.global_step - 1)
        if trainer.is_global_zero:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._row(bad)) + "\n")

    def _row(self, bad: BadStep) -> dict[str, Any]:
        parts = [{**suspect._asdict(), "loss": as_json(suspect.loss)} for suspect in bad.suspects]
        counts = {"in_a_row": self._in_a_row, "bad_steps": self.bad_steps}
        norm = as_json(bad.norm)
        return {"step": bad.step, "reason": bad.reason, "gradient_norm": norm, **counts, "micro_batches": parts}

    def _stop_if_too_many(self) -> None:
        if self._in_a_row >= self.limit:
            latest = "; ".join(map(str, self._streak[-self.limit :]))
            raise UserError(
                f"training has become unstable: {self._in_a_row} bad steps in a row, and max_bad_steps={self.limit}: "
                f"{latest}. Lower model.optim.lr, or look at these samples; {self.file} lists all"
            )


def total_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the norm () of the gradients of all parameters together, the same on all ranks.

    Gradients that are sharded (FSDP2) are whole in it, each once.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    sharded = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    plain = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    norms = [torch.nn.utils.get_total_norm(part) for part in (sharded, plain) if part]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return torch.linalg.vector_norm(torch.stack(whole)) if whole else torch.zeros(())


def can_skip(optimizer: Optimizer) -> bool:
    """Say whether fused kernels update all weights, whole ones: they can be told on the device to do nothing."""
    groups = optimizer.param_groups
    return all(g.get("fused") and not any(isinstance(p, DTensor) for p in g["params"]) for g in groups)


def is_scaled(trainer: L.Trainer) -> bool:
    """Does float16's scaler look after gradients itself? To it infinite ones are part of finding its scale."""
    plugin = trainer.precision_plugin
    return isinstance(plugin, MixedPrecision) and plugin.scaler is not None


def as_json(value: float) -> float | str:
    """Return what JSON can hold, which knows neither nan nor inf."""
    return value if math.isfinite(value) else str(value)
