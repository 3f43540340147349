"""The metrics on one rank or several, each with a share of the same samples; run by test_by_id.py in processes."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from vle_lightning.errors import UserError
from vle_lightning.metrics.consistency import Consistency, sentence_of
from vle_lightning.metrics.joint import JointAccuracy
from vle_lightning.metrics.per_class import ClassAccuracy
from vle_lightning.metrics.retrieval import RetrievalRecall
from vle_lightning.metrics.vqa_accuracy import VQAAccuracy

SAMPLES = 12
BATCH = 3
SHARES = {  # of each rank: uneven, one empty, some samples (7, and 0 with 1) on two ranks or twice on one
    1: [[*range(SAMPLES), 7, 0]],
    2: [[7, 3, 11, 0, 5, 6, 1, 9, 10, 0], [2, 4, 7, 8, 1]],
    3: [[8, 7], [], [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 1]],
}
PATIENCE = timedelta(seconds=60)

Results = dict[str, Any]


def scores_of(share: Sequence[int]) -> Results:
    """Score this rank's share with every metric, batch by batch."""
    batches = [share[start : start + BATCH] for start in range(0, len(share), BATCH)]
    images = [f"image {number}" for number in range(SAMPLES)]
    scores = torch.rand(SAMPLES, 2 * SAMPLES, generator=torch.Generator().manual_seed(0)).mul(8).floor()  # with ties
    vqa, pairs, joint, classes = VQAAccuracy(), Consistency(), JointAccuracy(), ClassAccuracy("xyz")
    recall = RetrievalRecall(images, [*images, *images], folds=(1, 3))
    for batch in batches:
        answers = [["two", *["2"] * (k % 4), *["cat"] * (9 - k % 4)] for k in batch]
        kinds = ["number" if k % 2 else "other" for k in batch]
        vqa.update([*batch], ["2"] * len(batch), answers, kinds, [f"how {k % 3}" for k in batch])
        names = [f"dev-{k // 4}-{k % 2}-{k // 2 % 2}" for k in batch]
        pairs.update(names, [sentence_of(name) for name in names], torch.tensor([k % 5 > 0 for k in batch]))
        joint.update("answer", [f"q{k}" for k in batch], [k % 3 > 0 for k in batch])
        classes.update([*batch], [k % 3 for k in batch], torch.tensor([k % 2 for k in batch]))
        recall.update([images[k] for k in batch], scores[batch])
    for batch in reversed(batches):  # the other half of a question may come much later
        joint.update("rationale", [f"q{k}" for k in batch], [k % 4 > 0 for k in batch])
    return {type(m).__name__: m.compute() for m in (vqa, pairs, joint, classes, recall)}


def quarrel(rank: int) -> str:
    """Judge one sample differently on each rank; return what computing the score says."""
    classes = ClassAccuracy("xyz")
    classes.update([f"own {rank}", "shared"], [0, 0], [0, rank])
    try:
        classes.compute()
    except UserError as error:
        return str(error)
    return "no error"


def work(rank: int, folder: Path) -> None:
    """Be this rank in a world of two (which rank 2 is not part of) and in one of three, and write what it computes."""
    torch.set_num_threads(1)
    results: dict[int, tuple[Results, str]] = {}
    for world, shares in SHARES.items():
        if rank < world > 1:
            store = f"file://{folder}/store-{world}"
            distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=PATIENCE)
            results[world] = scores_of(shares[rank]), quarrel(rank)
            distributed.destroy_process_group()
    (folder / f"rank-{rank}").write_bytes(pickle.dumps(results))
