"""Cosines of unit vectors."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from vle_lightning.models.contrastive import cosines


def test_cosines_are_in_float32_under_autocast() -> None:
    images, texts = (F.normalize(torch.randn(rows, 64), dim=-1) for rows in (5, 7))
    expected = torch.tensor([[float((image * text).sum()) for text in texts] for image in images])
    with torch.autocast("cpu", torch.bfloat16):
        found = cosines(images, texts)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
