"""The best and the blind scores that the world allows, computed rather than measured.

A *ceiling* is what the best reader of picture and text reaches, a *floor* what the best reader of the text
alone does. Both are expected scores of a Bayes-optimal reader, averaged over given scenes and captions.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.toy.coverage import covered, expected_coverage, footprint_likelihood
from datamodules.toy.language import MOST_NAMED, Caption, Statement, fitting, likelihood, parse, readings
from datamodules.toy.questions import ANNOTATORS, RELIABILITY
from datamodules.toy.world import CLASSES, COLOURS, OBJECT_COUNTS, SHAPES, SIZES, Scene, SceneObject

CONTENT_WORDS = frozenset(COLOURS + SHAPES + SIZES)
MASK_SHARE, HIDDEN_SHARE, KEPT_SHARE = (
    0.15,
    0.9,
    0.1,
)  # of tokens; of the masked: [MASK] or another word, left as is
PATTERNS_PER_CAPTION = 8
ANSWER_CREDIT = 0.3  # VQAv2's soft score for each annotator who agrees

Captioned = tuple[Scene, Sequence[Caption]]


def itm_ceiling(data: Sequence[Captioned]) -> float:
    """ITM: half of the pairs are another image's caption, and one that happens to be true cannot be told.

    A caption is far likelier beside its own scene than beside a random one, so the best reader calls every
    true pair a match and errs on the true ones among the shifted half.
    """
    holders: dict[tuple[int, int, int], set[int]] = defaultdict(set)
    for number, (scene, _) in enumerate(data):
        for item in scene.objects:
            holders[item.size, item.colour, item.shape].add(number)
    pairs = accidents = 0
    for number, (_, texts) in enumerate(data):
        for caption in texts:
            statement = parse(caption.text)
            candidates = set.intersection(*(holders[kind] for kind in statement.kinds)) - {number}
            accidents += sum(any(fitting(statement, data[other][0].objects)) for other in candidates)
            pairs += len(data) - 1
    return 1 - 0.5 * accidents / pairs


def mlm_content_floor() -> float:
    """MLM on colour, shape, size words: a guess among uniform words, or the word itself where it was kept.

    At most: the reader is taken to know which visible words are kept and which are replaced.
    """
    guess = (1 / len(COLOURS) + 1 / len(SHAPES) + 1 / len(SIZES)) / 3
    return KEPT_SHARE + HIDDEN_SHARE * guess


def mlm_content_ceiling(data: Sequence[Captioned], rng: np.random.Generator) -> float:
    """MLM on content words with the picture: the likeliest word in the scene's captions that fit the rest.

    Averaged over masks drawn as in training; the reader is taken to know which words are replaced.
    """
    scores: list[float] = []
    for scene, texts in data:
        tables = caption_tables(scene)
        for caption in texts:
            words = np.array(caption.text.split())
            table, shares = tables[len(words)]
            content = np.isin(words, list(CONTENT_WORDS))
            for _ in range(PATTERNS_PER_CAPTION):
                masked = rng.random(len(words)) < MASK_SHARE
                hidden = masked & (rng.random(len(words)) < HIDDEN_SHARE)
                agreeing = ((table == words) | hidden).all(1)
                for position in np.flatnonzero(masked & content):
                    scores.append(_best_share(table[agreeing, position], shares[agreeing]))
    return float(np.mean(scores))


def caption_tables(scene: Scene) -> dict[int, tuple[NDArray[np.str_], NDArray[np.float64]]]:
    """Return all captions of a scene by their number of words: words (captions, words) and probabilities."""
    found: dict[int, list[tuple[list[str], float]]] = defaultdict(list)
    for statement, share in readings(scene):
        words = statement.text.split()
        found[len(words)].append((words, share))
    return {
        length: (np.array([words for words, _ in rows]), np.array([share for _, share in rows]))
        for length, rows in found.items()
    }


def _best_share(words: NDArray[np.str_], shares: NDArray[np.float64]) -> float:
    """Return the share of the likeliest word."""
    _, numbers = np.unique(words, return_inverse=True)
    return float(np.bincount(numbers, shares).max() / shares.sum())


def mpc_ceiling(data: Sequence[Captioned]) -> float:
    """MPC: one box, drawn uniformly, is hidden; caption, other objects and the box's patches are known."""
    scores = [
        class_posterior(parse(caption.text), scene.objects, number).max()
        for scene, texts in data
        for caption in texts
        for number in range(len(scene.objects))
    ]
    return float(np.mean(scores))


def class_posterior(statement: Statement, objects: Sequence[SceneObject], number: int) -> NDArray[np.float64]:
    """Return how likely hidden object ``number`` is of each class, (CLASSES,), by Bayes over its attributes.

    The caption's likelihood is the same for all kinds that it does not name, so it is computed once for them.
    """
    item = objects[number]
    footprint = [footprint_likelihood(item, size) for size in range(len(SIZES))]
    kinds = set(itertools.product(range(len(SIZES)), range(len(COLOURS)), range(len(SHAPES))))
    named = set(statement.kinds)
    weights = {kind: _caption_likelihood(statement, objects, number, kind) for kind in named}
    unnamed = _caption_likelihood(statement, objects, number, min(kinds - named))
    posterior = np.zeros(len(CLASSES))
    for size, colour, shape in kinds:
        weight = weights.get((size, colour, shape), unnamed)
        posterior[colour * len(SHAPES) + shape] += footprint[size] * weight
    normalised: NDArray[np.float64] = posterior / posterior.sum()
    return normalised


def _caption_likelihood(
    statement: Statement, objects: Sequence[SceneObject], number: int, kind: tuple[int, int, int]
) -> float:
    size, colour, shape = kind
    item = objects[number]
    guess = SceneObject(item.cell, colour, shape, size, item.x, item.y)
    return likelihood(statement, [*objects[:number], guess, *objects[number + 1 :]])


def mpc_floor(texts: Sequence[Caption]) -> float:
    """MPC from the caption alone: the best guess is the class that it names most often."""
    return float(np.mean([named_class_share(parse(caption.text)) for caption in texts]))


def named_class_share(statement: Statement) -> float:
    """Return how likely a random object of the unseen scene is of the class that its caption names most.

    How many objects the scene has is weighed by how likely its captions name as many as this one.
    """
    named = len(statement.kinds)
    most = Counter(kind[1:] for kind in statement.kinds).most_common(1)[0][1]
    counts = [count for count in OBJECT_COUNTS if count >= named]
    weights = [1 / min(MOST_NAMED, count) for count in counts]
    shares = [(most + (count - named) / len(CLASSES)) / count for count in counts]
    return sum(weight * share for weight, share in zip(weights, shares, strict=True)) / sum(weights)


def pbc_floor(data: Sequence[Captioned]) -> float:
    """PBC from the caption alone: all patches that are likelier mentioned than the best threshold.

    The score is the total intersection over the total union, as in validation.
    """
    expected, mentioned = [], []
    for scene, texts in data:
        for caption in texts:
            expected.append(expected_coverage(parse(caption.text)))
            mentioned.append(covered(scene.objects[i] for i in caption.objects))
    return best_overlap(np.array(expected).ravel(), np.array(mentioned).ravel())


def best_overlap(scores: NDArray[np.float64], targets: NDArray[np.bool_]) -> float:
    """Return the best intersection over union of {score >= threshold} and the targets."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # equal scores go together
    inside = np.cumsum(targets[order])[ends]
    return float((inside / (ends + 1 + targets.sum() - inside)).max())


def vqa_floor(kinds: int) -> float:
    """Return the expected soft score of any constant answer, of ``kinds`` equally likely ones."""
    right, wrong = annotator_credit(kinds)
    return (right + (kinds - 1) * wrong) / kinds


def annotator_credit(kinds: int) -> tuple[float, float]:
    """Return the expected soft scores of the true answer and of one certain wrong one.

    Ten annotators err independently, evenly over the wrong answers; more than half are right (else redrawn).
    """
    slip = (1 - RELIABILITY) / (kinds - 1)
    total = right = wrong = 0.0
    for true in range(ANNOTATORS // 2 + 1, ANNOTATORS + 1):
        for same in range(ANNOTATORS - true + 1):
            rest = ANNOTATORS - true - same
            ways = math.comb(ANNOTATORS, true) * math.comb(ANNOTATORS - true, same)
            share = ways * RELIABILITY**true * slip**same * ((kinds - 2) * slip) ** rest
            total += share
            right += share * min(1.0, ANSWER_CREDIT * true)
            wrong += share * min(1.0, ANSWER_CREDIT * same)
    return right / total, wrong / total
