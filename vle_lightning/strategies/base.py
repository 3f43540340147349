"""What callbacks may ask of a strategy that steps by itself."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class OwnsGradients(Protocol):
    """A strategy whose engine holds the gradients and takes the step, so that nothing of it is seen from outside."""

    def skip_step(self) -> None:
        """Let the optimiser step that is being prepared update nothing; all ranks call this before its backward."""

    def gradient_norm(self) -> float | None:
        """Return the norm of the latest step's whole gradient before clipping; None before the first step."""
