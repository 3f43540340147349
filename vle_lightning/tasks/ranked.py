"""The best matches of each image and of each text, as rows of predictions.json."""

from __future__ import annotations

import torch
from torch import Tensor

from vle_lightning.distributed import gather_objects
from vle_lightning.tasks.scoring import ScoredSplit

BEST = 10  # matches that a row names: recall is counted up to there


def best_matches(scored: ScoredSplit, count: int = BEST) -> list[dict[str, object]]:
    """Rank the texts of this rank's images, and all images for the texts of these; all ranks call this together.

    Of equal scores, the first id comes first. Pairs that a shortlist left out are not named.

    Args:
        scored: of this rank.
        count: matches that a row names, at most.

    Returns:
        A row for each of this rank's images (``best_texts``) and for each of their texts (``best_images``), so that
        the ranks together have each once; ``target`` says what is right.
    """
    texts, own = scored.texts, set(scored.own)
    captions: dict[str, list[str]] = {name: [] for name in scored.own}
    for name, owner in zip(texts.ids, texts.owners, strict=True):
        if owner in own:
            captions[owner].append(name)
    rows: list[dict[str, object]] = []
    for image, scores in zip(scored.own, scored.scores, strict=True):
        best = [
            {"id": texts.ids[place], "text": texts.texts[place], "score": score}
            for place, score in _first(scores, count)
        ]
        rows.append({"id": image, "target": captions[image], "best_texts": best})
    images, columns = _best_images(scored, count)
    for text, caption, owner, column in zip(texts.ids, texts.texts, texts.owners, columns.T, strict=True):
        if owner in own:
            found = [{"id": images[place], "score": score} for place, score in _first(column, count)]
            rows.append({"id": text, "text": caption, "target": owner, "best_images": found})
    return rows


def _first(scores: Tensor, count: int) -> list[tuple[int, float]]:
    """Return place and score of the best of ``scores`` (K,), the first place first where they are equal."""
    order = scores.argsort(descending=True, stable=True)[:count].tolist()
    return [(place, float(scores[place])) for place in order if scores[place] > -torch.inf]


def _best_images(scored: ScoredSplit, count: int) -> tuple[list[str], Tensor]:
    """Gather what each text's best images may be: the first ``count`` of each rank.

    Returns:
        The ids of all I images, sorted, and scores (I, T); -inf where a text has ``count`` better images on one rank.
    """
    order = sorted(range(len(scored.own)), key=scored.own.__getitem__)
    scores = scored.scores[order]
    best = scores.argsort(dim=0, descending=True, stable=True)[:count]  # (count, T)
    shares = gather_objects(([scored.own[place] for place in order], best, scores.gather(0, best)))
    names = sorted(name for share in shares for name in share[0])
    place_of = {name: place for place, name in enumerate(names)}
    table = torch.full((len(names), len(scored.texts.ids)), -torch.inf)
    for own, places, values in shares:
        if own:
            rows = torch.tensor([place_of[name] for name in own])
            table.scatter_(0, rows[places], values)
    return names, table
