"""Scores over samples that are known by their ids: whoever judged a sample, and however often, it counts once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Generic, NoReturn, TypeVar

from torchmetrics import Metric

from vle_lightning.distributed import gather_objects
from vle_lightning.errors import UserError

SampleID = str | int
Key = SampleID | tuple[str, SampleID]  # a sample, or one side of it: ("answer", id)
Row = TypeVar("Row")
Scores = TypeVar("Scores")


class ByID(Metric, Generic[Row, Scores]):
    """Keep one row a sample, gather the rows of all ranks and score their union.

    A sum that is reduced over ranks counts the samples that a sampler repeats to even out the ranks; rows under ids do
    not. What several samples decide together (consistency, Q->AR, a ranking) can only be computed from the rows.

    A subclass takes its samples in ``update``, hands them to ``add``, and says in ``score`` what they are worth. All
    ranks must call ``compute`` together; one that has seen no sample calls it all the same. Between ``reset``s nothing
    is cached, as one rank would return what it remembers while the others wait for it.
    """

    full_state_update = True  # rows cannot be merged state by state: torchmetrics refuses merge_state then

    def __init__(self) -> None:
        super().__init__(sync_on_compute=False, compute_with_cache=False)  # compute gathers, once
        self._rows: list[tuple[Key, Row]] = []

    @property
    def update_called(self) -> bool:
        """Say that computing is fine: a rank without samples is no mistake that torchmetrics should warn of."""
        return True

    def add(self, keys: Iterable[Key], rows: Iterable[Row]) -> None:
        """Keep the row of each sample; one that comes again is compared with the first when the score is computed."""
        self._rows.extend(zip(keys, rows, strict=True))

    @abstractmethod
    def score(self, rows: dict[Key, Row]) -> Scores:
        """Score the union of all ranks' rows, in the order of their ids."""

    def compute(self) -> Scores:
        """Gather and score.

        Raises:
            UserError: a sample came twice with different rows; the message names it. As all ranks see all rows, all
                raise it, and none waits for the others.
        """
        return self.score(self.union(gather_objects(self._rows)))

    def union(self, shares: Sequence[list[tuple[Key, Row]]]) -> dict[Key, Row]:
        """Put the shares of all ranks together, each sample once, in the order of the ids."""
        rows: dict[Key, Row] = {}
        for key, row in (pair for share in shares for pair in share):
            if key in rows and not self.same(rows[key], row):
                raise UserError(
                    f"{type(self).__name__}: sample {named(key)} was judged twice, as {shown(rows[key])} and as "
                    f"{shown(row)}. Give each sample an id of its own, or score one run at a time"
                )
            rows.setdefault(key, row)
        return {key: rows[key] for key in sorted(rows, key=str)}

    @staticmethod
    def same(first: Row, second: Row) -> bool:
        """Say whether two rows of one sample agree."""
        return bool(first == second)

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self._rows = []

    def forward(self, *_: object, **__: object) -> NoReturn:
        """Refuse: a score of each batch would gather all ranks' rows at each step.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} scores a whole split: call update(...) for each batch, then compute()")


def named(key: Key) -> str:
    """Return a sample's id for a message, with its side if it has one."""
    return f"{key[1]!r} ({key[0]})" if isinstance(key, tuple) else repr(key)


def shown(row: object) -> str:
    """Return a row for a message, in at most 80 characters."""
    text = repr(row)
    return text if len(text) <= 80 else text[:77] + "..."
