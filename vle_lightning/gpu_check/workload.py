"""Pre-training pairs drawn at random, of the sizes that an experiment on photos has."""

from __future__ import annotations

import torch

from vle_lightning.batch import IGNORED, PretrainBatch

TOKENS = 50  # METER's longest text, as in experiments/pretrain/vle_base.yaml
REGIONS = 5  # boxes of a picture
CLASSES = 1600  # of boxes, as in experiments/pretrain/vle_base.yaml
MASKED = 0.15  # share of tokens, BERT's (arXiv 1810.04805)


def make_pairs(rows: int, image_size: int, vocabulary: int, tokens: int = TOKENS, seed: int = 0) -> PretrainBatch:
    """Draw B pairs with texts of full length: what a micro-batch costs at most.

    Args:
        rows: B, at least 2; the images of the first half have the next text beside them.
        image_size: H = W in pixels.
        vocabulary: V of the model.
        tokens: T.
        seed: of everything.
    """
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocabulary, (rows, tokens), generator=random)
    chosen = torch.rand(rows, tokens, generator=random) < MASKED
    corner = torch.rand(rows, REGIONS, 2, generator=random) * 0.6
    partner = torch.arange(rows)
    partner[: rows // 2] += 1
    region = torch.arange(REGIONS).expand(rows, REGIONS)
    return PretrainBatch(
        sample_ids=tuple(str(row) for row in range(rows)),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=torch.randn(rows, 3, image_size, image_size, generator=random),
        input_ids=ids,
        attention_mask=torch.ones(rows, tokens, dtype=torch.bool),
        texts=("",) * rows,
        keys=torch.arange(rows)[:, None].expand(-1, 3),
        masked_input_ids=ids.masked_fill(chosen, 4),
        mlm_targets=ids.masked_fill(~chosen, IGNORED),
        mlm_content=chosen,
        partner=partner,
        drawn_rows=torch.zeros(0, dtype=torch.long),
        drawn_pixel_values=torch.zeros(0, 3, image_size, image_size),
        boxes=torch.cat([corner, corner + 0.3], dim=-1),
        box_valid=torch.ones(rows, REGIONS, dtype=torch.bool),
        box_mentioned=region < 2,
        hidden_boxes=torch.cat([corner, corner + 0.3], dim=-1)[:, :1],  # a third of five
        hidden_classes=torch.randint(0, CLASSES, (rows, 1), generator=random),
        hidden_patches=torch.zeros(rows, 0, dtype=torch.bool),
        patch_codes=torch.zeros(rows, 0, dtype=torch.long),
    )
