"""Image-text contrast: one vector a text and one an image, before they are fused (CLIP, ALBEF)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.models.heads import initialise
from vle_lightning.streams import Stream

SHARED = 256  # width of the vectors, as in ALBEF (arXiv 2107.07651)
TEMPERATURE = 0.07  # at the start, as in CLIP (arXiv 2103.00020, section 2.5)
SHARPEST = 100.0  # no similarity is scaled by more: CLIP's clamp


class ContrastiveHead(nn.Module):
    """Two linear projections of the CLS states to the unit sphere, and a learned temperature; all in float32."""

    def __init__(self, width: int, std: float, shared: int = SHARED) -> None:
        """Make the projections.

        Args:
            width: D of both streams.
            std: of the new weights.
            shared: width of the vectors; VLMo has D.
        """
        super().__init__()
        self.text = nn.Linear(width, shared, bias=False)
        self.image = nn.Linear(width, shared, bias=False)
        initialise(self, std)
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / TEMPERATURE)]))  # (1,): sharded strategies slice it

    def embed_texts(self, text: Stream) -> Tensor:
        """Return unit vectors (B, C) of text streams (B, T, D); zeros of a masked modality."""
        return _unit(self.text, text)

    def embed_images(self, image: Stream) -> Tensor:
        """Return unit vectors (B, C) of image streams (B, 1 + P, D); zeros of a masked modality."""
        return _unit(self.image, image)

    def forward(self, images: Tensor, texts: Tensor, learns_scale: bool = True) -> Tensor:
        """Return the cosines of images (I, C) and texts (T, C) by the temperature: (I, T).

        Without ``learns_scale`` the temperature gets no gradient.
        """
        log_scale = self.log_scale if learns_scale else self.log_scale.detach()
        with torch.autocast(images.device.type, enabled=False):
            return log_scale.float().exp().clamp(max=SHARPEST) * images @ texts.T


def cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Return the products (I, T) of unit vectors (I, C) and (T, C) in float32, also under autocast.

    In bf16 cosines near 1 are 1/256 apart, and many would be equal.
    """
    with torch.autocast(images.device.type, enabled=False):
        return images.float() @ texts.float().T


def contrastive_loss(similarities: Tensor, same: Tensor, valid: Tensor) -> Tensor:
    """Average the cross entropies over the texts of each image and over the images of each text.

    Args:
        similarities: (B, B) float32, images x texts; text i describes image i.
        same: (B, B) bool: the rows whose texts are right for each other, as of one image: these are left out.
        valid: (B,) bool; other rows are neither judged nor compared with.

    Returns:
        (): the mean over the valid rows; an exact zero where there are none.
    """
    out = same | ~valid | ~valid[:, None]
    logits = similarities.masked_fill(out.fill_diagonal_(False), -torch.inf)
    targets = torch.arange(len(valid), device=valid.device)
    losses = [F.cross_entropy(side, targets, reduction="none") for side in (logits, logits.T)]
    return ((losses[0] + losses[1]) / 2 * valid).sum() / valid.sum().clamp(min=1)


def _unit(projection: nn.Module, stream: Stream) -> Tensor:
    states = stream.states[:, 0]
    with torch.autocast(states.device.type, enabled=False):
        return F.normalize(projection(states.to(next(projection.parameters()).dtype)).float(), dim=-1)
