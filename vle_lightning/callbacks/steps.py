"""Where one optimiser step ends and the next begins."""

from __future__ import annotations

import lightning as L


def ends_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Is this the last micro-batch of its optimiser step?"""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def is_logged(trainer: L.Trainer, batch_idx: int) -> bool:
    """Did a step end with this micro-batch that ``trainer.log_every_n_steps`` wants logged?"""
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return ends_step(trainer, batch_idx) and interval > 0 and trainer.global_step % interval == 0
