"""A set of captioned images, and retrieval on one rank or several with a share of it each; run in processes."""

from __future__ import annotations

import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import distributed, nn

from tests.factories import SIZE, generator, make_texts
from vle_lightning.batch import RetrievalBatch
from vle_lightning.errors import UserError
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.dual_retrieval import DualRetrievalTask
from vle_lightning.tasks.retrieval import RetrievalTask

IMAGES = 6
SHARES = {1: [[*range(IMAGES)]], 2: [[4, 0, 5, 1], [3, 2]], 3: [[2, 5], [], [1, 0, 3, 4]]}  # uneven, one empty
PATIENCE = timedelta(seconds=60)


def retrieval_batch(
    rows: int = 4, tokens: int = 7, seed: int = 0, captions: int = 1, shifts: tuple[int, ...] = (1, 2)
) -> RetrievalBatch:
    """Make images with so many texts each."""
    random = generator(seed)
    ids, mask = make_texts(rows * captions, tokens, random)
    owners = torch.arange(rows).repeat_interleave(captions)
    return RetrievalBatch(
        sample_ids=tuple(f"image/{row}" for row in range(rows)),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(rows, 3, SIZE, SIZE, generator=random),
        input_ids=ids,
        attention_mask=mask,
        keys=torch.arange(rows)[:, None].expand(-1, 3),
        owners=owners,
        image_ids=tuple(f"image/{row}" for row in range(rows)),
        text_ids=tuple(f"image/{row}/{place}" for row in range(rows) for place in range(captions)),
        texts=tuple(f"text {number}" for number in range(rows * captions)),
        shifts=torch.tensor(shifts, dtype=torch.long),
    )


def part_of(batch: RetrievalBatch, rows: list[int], valid: bool = True) -> RetrievalBatch:
    """Cut images with their texts out of a batch."""
    texts = [text for row in rows for text in (batch.owners == row).nonzero().squeeze(1).tolist()]
    return RetrievalBatch(
        sample_ids=tuple(batch.sample_ids[row] for row in rows),
        valid=torch.full((len(rows),), valid),
        step=0,
        number=0,
        pixel_values=batch.pixel_values[rows],
        input_ids=batch.input_ids[texts],
        attention_mask=batch.attention_mask[texts],
        keys=batch.keys[rows],
        owners=torch.tensor([rows.index(int(batch.owners[text])) for text in texts]),
        image_ids=tuple(batch.image_ids[row] for row in rows),
        text_ids=tuple(batch.text_ids[text] for text in texts),
        texts=tuple(batch.texts[text] for text in texts),
        shifts=torch.zeros(0, dtype=torch.long),
    )


def make_task(**options: Any) -> RetrievalTask:  # noqa: ANN401
    """Build a tiny task with fixed weights."""
    torch.manual_seed(0)
    with patch.object(RetrievalTask, "log"):
        return RetrievalTask("tiny", **options).eval()


def make_dual(architecture: str = "vlmo-tiny", **options: Any) -> DualRetrievalTask:  # noqa: ANN401
    """Build a tiny dual encoder with fixed weights that tell texts, and images, apart."""
    torch.manual_seed(0)
    with patch.object(DualRetrievalTask, "log"):
        task = DualRetrievalTask(architecture, **options).eval()
    for module in task.model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.3)
    task.new_heads = ()  # as if it had been pre-trained
    return task


@torch.no_grad()
def results_of(share: list[int], is_dual: bool = False) -> dict[str, Any]:
    """Score and rank this rank's share, two images a batch; a rank without images sees a filler."""
    task = make_dual(folds=(1, 3)) if is_dual else make_task(contrastive=1.0, folds=(1, 3))
    whole = retrieval_batch(IMAGES, captions=2)
    pieces = [share[start : start + 2] for start in range(0, len(share), 2)]
    batches = [part_of(whole, rows) for rows in pieces] or [part_of(whole, [0], valid=False)]
    results: dict[str, Any] = {}
    for top_k in (0, 3):
        task.top_k, task.suffix = top_k, f"_top{top_k}" if top_k else ""
        for batch in batches:
            task.validation_step(batch)
            task.encode(batch, task._predicted)
        results |= task.split_scores(Stage.VAL)
        results[f"rows {top_k}"] = task.split_rows()
    return results


def broken(rank: int, share: list[int]) -> str:
    """Let one rank's pictures be NaN; return what this rank says."""
    task, batch = make_task(), part_of(retrieval_batch(IMAGES), share)
    if rank == 0:
        batch.pixel_values.fill_(torch.nan)
    with torch.no_grad():
        task.validation_step(batch)
        try:
            task.split_scores(Stage.VAL)
        except UserError as error:
            return str(error)
    return "no error"


def work(rank: int, folder: Path, is_dual: bool = False) -> None:
    """Be this rank in a world of two (which rank 2 is not part of) and in one of three, and write what it computes."""
    torch.set_num_threads(1)
    results: dict[int, tuple[dict[str, Any], str]] = {}
    for world, shares in SHARES.items():
        if rank < world > 1:
            store = f"file://{folder}/store-{world}"
            distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=PATIENCE)
            results[world] = results_of(shares[rank], is_dual), broken(rank, [2 * rank, 2 * rank + 1])
            distributed.destroy_process_group()
    (folder / f"rank-{rank}").write_bytes(pickle.dumps(results))
