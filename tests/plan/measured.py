"""Run in a process of its own: the peak of two training steps on the CPU, in bytes beyond what stood before them."""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

import torch

from tests.factories import PARTS
from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.fusion.co_attention import CoAttentionConfig
from vle_lightning.models.backbone import BackboneConfig
from vle_lightning.models.dual_stream import DualStreamConfig
from vle_lightning.models.mome import MoMEConfig
from vle_lightning.optim import make_optimizer
from vle_lightning.performance import checkpoint_activations
from vle_lightning.plan.kinds import KINDS, Sample
from vle_lightning.resident import current_bytes, peak_bytes, reset_peak
from vle_lightning.tasks.base import Stage

DUAL = DualStreamConfig(
    DebertaConfig(8000, 256, 4, 4, 1024, position_buckets=32, max_positions=64),
    ClipViTConfig(112, 8, 256, 4, 4, 1024),
    CoAttentionConfig(256, 3, 4, 1024),
)
EXPERTS = MoMEConfig(112, 8, 8000, 256, 6, 4, 1024, 2, 48)
WAYS: dict[str, tuple[str, ...]] = {"plain": (), "cheap": ("cheap",), "recomputed": PARTS}  # what is recomputed


class Measured(NamedTuple):
    """A task that is measured, and what it is planned by."""

    architecture: BackboneConfig
    sample: Sample
    options: dict[str, Any]


IMAGE = Sample(0, 112, 0.0, 0)
CASES = {
    "pretrain": Measured(DUAL, Sample(tokens=40, image_size=112, masked=0.15, boxes=5), {"classes": 50}),
    "pretrain_images": Measured(EXPERTS, IMAGE._replace(patches=0.4), {"codes": 500}),
    "pretrain_texts": Measured(EXPERTS, Sample(40, 0, 0.15, 0), {}),
    "classification": Measured(DUAL, IMAGE, {"classes": 500}),
    "segmentation": Measured(EXPERTS, IMAGE, {"classes": 50, "channels": 64}),
}


def main(name: str, rows: int, way: str) -> None:
    """Print the peak."""
    torch.set_num_threads(1)
    case, kind = CASES[name], KINDS[name]
    task = kind.task(case.architecture, **case.options)
    task.train()
    checkpoint_activations(task.model, WAYS[way])
    optimizer, _ = make_optimizer(task, task.optim, 10)
    batch = kind.batch(rows, case.sample, task.model.layout)
    before = current_bytes()
    reset_peak()
    for _ in range(2):  # in Lightning's order: the gradients of a step live until the forward of the next is done
        loss = task.step(batch, Stage.VAL)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    states = sum(v.numel() * v.element_size() for s in optimizer.state.values() for k, v in s.items() if k != "step")
    print(json.dumps({"peak": peak_bytes() - before, "states": states}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
