"""What callbacks may ask of strategies that are not like one process."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable


@runtime_checkable
class OwnsGradients(Protocol):
    """A strategy whose engine holds the gradients and takes the step, so that nothing of it is seen from outside."""

    def skip_step(self) -> None:
        """Let the optimiser step that is being prepared update nothing; all ranks call this before its backward."""

    def gradient_norm(self) -> float | None:
        """Return the norm of the latest step's whole gradient before clipping; None before the first step."""


@runtime_checkable
class SpreadsWeights(Protocol):
    """A strategy under which a model called outside of a step lacks weights."""

    def whole(self) -> AbstractContextManager[None]:
        """Hold whole, as a step does, all weights that no layer gathers; all ranks enter and leave together."""


@runtime_checkable
class WritesFolders(Protocol):
    """A strategy that may write checkpoints as folders, of which each rank writes a part."""

    sharded_checkpoints: bool
