"""NLVR2's two scores (arXiv 1811.00491, section 5; github.com/lil-lab/nlvr, nlvr2/eval/metrics.py)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.metrics.by_id import ByID, Key, SampleID
from vle_lightning.metrics.columns import check_lengths, listed, mean


class ConsistencyScores(NamedTuple):
    """Fractions in [0, 1]; NaN where there was nothing to judge."""

    accuracy: float  # of sentences with one image pair each
    consistency: float  # of sentences that are judged right on all their image pairs


def sentence_of(identifier: str) -> str:
    """Return what the identifiers of one sentence share: all but the number of the image pair.

    Args:
        identifier: split, set, pair and sentence, such as "dev-850-0-1".

    Raises:
        UserError: the identifier has another form.
    """
    parts = identifier.split("-")
    if len(parts) != 4:
        raise UserError(f"NLVR2 identifier {identifier!r} is not of the form split-set-pair-sentence (dev-850-0-1)")
    return "-".join([*parts[:2], "", *parts[3:]])


def consistency_scores(groups: Sequence[Hashable], right: Sequence[bool]) -> ConsistencyScores:
    """Score decisions one by one, and all decisions on a sentence together.

    The balanced and the unbalanced score are those of the samples in the balanced and the unbalanced file: hand in
    those samples only. A sentence is then judged on the pairs that are in the file.

    Args:
        groups: the sentence of each sample, as ``sentence_of`` names it, or any other name.
        right: whether each sample was judged right.

    Raises:
        UserError: the lists differ in length.
    """
    check_lengths(groups=groups, right=right)
    all_right: dict[Hashable, bool] = {}
    for group, hit in zip(groups, right, strict=True):
        all_right[group] = all_right.get(group, True) and bool(hit)
    return ConsistencyScores(mean(map(bool, right)), mean(all_right.values()))


class Consistency(ByID[tuple[Hashable, bool], ConsistencyScores]):
    """NLVR2's accuracy and consistency over all ranks; a sentence's pairs may lie on several."""

    def update(
        self, sample_ids: Sequence[SampleID], groups: Sequence[Hashable], right: Sequence[bool] | Tensor
    ) -> None:
        """Take in B samples: their sentences, and whether they were judged right, a list or a tensor (B,) bool.

        Raises:
            UserError: the lists differ in length.
        """
        hits = [bool(hit) for hit in listed(right)]
        check_lengths(sample_ids=sample_ids, groups=groups, right=hits)
        self.add(sample_ids, zip(groups, hits, strict=True))

    def score(self, rows: dict[Key, tuple[Hashable, bool]]) -> ConsistencyScores:
        """Score the union."""
        return consistency_scores([group for group, _ in rows.values()], [hit for _, hit in rows.values()])
