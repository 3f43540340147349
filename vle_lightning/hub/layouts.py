"""What published layouts share: reading sizes off tensors, and finding the place of ours in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from vle_lightning.errors import UserError


class Sizes:
    """Shapes of a checkpoint's tensors, by our names."""

    def __init__(self, weights: Mapping[str, Tensor], where: str, layout: str, theirs: Callable[[str], str]) -> None:
        """Take the tensors.

        Args:
            weights: by our names.
            where: the file, for messages.
            layout: whose it is, for messages.
            theirs: gives the published name of one of ours.
        """
        self.weights, self.where, self.layout, self.theirs = weights, where, layout, theirs

    def of(self, name: str, dimensions: int = 2) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            UserError: it is missing, or has another number of dimensions.
        """
        shape = tuple(self.weights[name].shape) if name in self.weights else None
        if shape is None or len(shape) != dimensions:
            told = "is missing" if shape is None else f"is {shape}, of {dimensions} dimensions there"
            raise UserError(
                f"{self.where} is not a {self.layout} checkpoint that can be read: {self.theirs(name)} {told}"
            )
        return shape

    def count(self, pattern: str) -> int:
        """Count the different numbers that the pattern's group finds in the names."""
        found = (re.fullmatch(pattern, key) for key in self.weights)
        return len({match[1] for match in found if match})


def place(own: Mapping[str, Tensor], theirs: Callable[[str], str | None], layout: str) -> dict[str, Tensor]:
    """Give tensors the names of a published layout.

    Raises:
        UserError: the layout has no place for some.
    """
    named: dict[str, Tensor] = {}
    homeless = []
    for name, value in own.items():
        if (published := theirs(name)) is None:
            homeless.append(name)
        else:
            named[published] = value.detach().contiguous()
    if homeless:
        hint = " (its MLM has the head of model.tied: false)" if homeless[0].startswith("mlm_score.") else ""
        raise UserError(f"{layout}'s layout has no place for {', '.join(homeless[:4])}{hint}; export it in ours")
    return named
