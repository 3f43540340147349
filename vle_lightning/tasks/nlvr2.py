"""NLVR2 (arXiv 1811.00491): is a sentence true of two photos?"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from vle_lightning.batch import StatementBatch
from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import Pretrained
from vle_lightning.models.backbone import IMAGE_TYPE
from vle_lightning.tasks.statements import StatementTask

RIGHT_TYPE = 2  # the token type of the second image


class NLVR2Task(StatementTask):
    """Two pairs of one text: each is fused by itself, and the head sees both (METER, arXiv 2111.02387)."""

    IMAGES: ClassVar[int] = 2

    def begin(self, source: Pretrained | None) -> None:
        """Start the token type of the second image from that of the first, as METER does; keep a trained one.

        Raises:
            UserError: the model has no third token type.
        """
        types = self.model.token_types.weight.data
        if len(types) <= RIGHT_TYPE:
            raise UserError(
                f"model.architecture.{self.model.types_option} is {len(types)}; NLVR2 needs {RIGHT_TYPE + 1}, of the "
                "text and two images"
            )
        if source is None or self.task_name() not in source.heads:
            types[RIGHT_TYPE] = types[IMAGE_TYPE]

    def pool(self, batch: StatementBatch) -> Tensor:
        """Encode B texts and 2B images once, fuse each text with both: the pooled pairs, left then right (B, 4D)."""
        text = self.model.encode_text(batch.input_ids, batch.attention_mask)
        images = self.model.encode_image(batch.pixel_values.flatten(0, 1))
        types = torch.full_like(images.mask, IMAGE_TYPE, dtype=torch.long)
        types[1::2] = RIGHT_TYPE
        pooled = self.model.pool_pairs(text.repeat(2), images, image_types=types)
        return pooled.view(len(batch), -1)


Task = NLVR2Task
