"""Parts that heads of objectives and tasks are built from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FloatNorm(nn.LayerNorm):
    """Layer norm in float32, whatever comes in: autocast casts norms on CUDA, but not on the CPU."""

    def forward(self, states: Tensor) -> Tensor:
        """Normalise states (..., D); the dtype is theirs again."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(states.float(), self.normalized_shape, weight, bias, self.eps).to(states.dtype)


class Pooler(nn.Module):
    """A state that stands for a stream through a linear layer and tanh."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        """Map states (B, D) to the same shape."""
        pooled: Tensor = self.dense(state).tanh()
        return pooled


def in_float32(head: nn.Linear, states: Tensor) -> Tensor:
    """Apply a linear head to states (..., D) in float32, also under autocast and where its weights are bfloat16.

    In bfloat16, scores near 4 are 1/64 apart: thousands of pairs of a ranking would share a score.
    """
    with torch.autocast(states.device.type, enabled=False):
        if head.weight.dtype == torch.float32:
            scores: Tensor = head(states.float())
            return scores
        return F.linear(states.float(), head.weight.float(), None if head.bias is None else head.bias.float())


def classifier(width: int, hidden: int, classes: int) -> nn.Sequential:
    """Linear, LayerNorm, GELU, Linear: the head of VLE's PBC, VQA and VCR models."""
    return nn.Sequential(nn.Linear(width, hidden), FloatNorm(hidden), nn.GELU(), nn.Linear(hidden, classes))


def initialise(module: nn.Module, std: float = 0.02) -> None:
    """Draw linear and embedding weights from a normal of ``std``; biases are zero, layer norms the identity."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding | nn.Conv2d):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.LayerNorm) and part.elementwise_affine:
            nn.init.ones_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
