"""UperNet (arXiv 1807.10221) on the states of a plain vision transformer, as BEiT uses it (arXiv 2106.08254)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

SCALES = 4  # of the pyramid: 4, 2, 1 and 1/2 times the grid of the patches
AUXILIARY_INPUT = 2  # the scale that the auxiliary head reads, the patches' own
MOST_GROUPS = 32


class FloatGroupNorm(nn.GroupNorm):
    """Group norm in float32, whatever comes in; the dtype is the input's again."""

    def forward(self, states: Tensor) -> Tensor:
        """Normalise maps (B, C, H, W)."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(states.float(), self.num_groups, weight, bias, self.eps).to(states.dtype)


def group_norm(channels: int) -> FloatGroupNorm:
    """Make a norm of the most groups, a power of two up to 32, of at least two channels each where there are two."""
    groups = MOST_GROUPS
    while channels % groups or (channels // groups < 2 and groups > 1):
        groups //= 2
    return FloatGroupNorm(groups, channels)


class Maps(NamedTuple):
    """Scores of the classes, a map each."""

    logits: Tensor  # (B, C, rows, columns)
    auxiliary: Tensor | None  # (B, C, rows, columns) of the auxiliary head, coarser; None where it is not trained


class UperNet(nn.Module):
    """A pyramid of four depths, transformers' decode head on it, and its auxiliary head for training.

    Norms are group norms. Batch norms would make a micro-batch's loss depend on what else it holds and the statistics
    on the rank, and fail on a micro-batch of one image, whose coarsest pool is a single pixel.
    """

    def __init__(self, width: int, channels: int, classes: int, auxiliary: bool) -> None:
        """Make the head.

        Args:
            width: D of the states.
            channels: of its maps; 512 in UperNet, 768 in BEiT-base.
            classes: C.
            auxiliary: make the auxiliary head, too.
        """
        super().__init__()
        config = UperNetConfig(hidden_size=channels, num_labels=classes, auxiliary_channels=max(channels // 2, 2))
        widths = [width] * SCALES
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, 2), group_norm(width), nn.GELU(), nn.ConvTranspose2d(width, width, 2, 2)
        )
        self.up2 = nn.ConvTranspose2d(width, width, 2, 2)
        self.decode_head = UperNetHead(config, widths)
        self.auxiliary_head = UperNetFCNHead(config, widths, AUXILIARY_INPUT) if auxiliary else None
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, group_norm(child.num_features))

    def forward(self, states: Sequence[Tensor], grid: tuple[int, int]) -> Maps:
        """Score the classes at four times the grid of the patches.

        Args:
            states: (B, P, D) of the patches at four depths, the lowest first.
            grid: rows and columns of the patches.
        """
        maps = [part.transpose(1, 2).unflatten(2, grid) for part in states]
        pyramid = [self.up4(maps[0]), self.up2(maps[1]), maps[2], halved(maps[3])]
        auxiliary = self.auxiliary_head(pyramid) if self.auxiliary_head is not None and self.training else None
        return Maps(self.decode_head(pyramid), auxiliary)


def halved(maps: Tensor) -> Tensor:
    """Take the largest of each 2 x 2 states of maps (B, D, rows, columns); a single row or column stays."""
    kernel = [min(2, side) for side in maps.shape[-2:]]
    return F.max_pool2d(maps, kernel)


def pyramid_depths(depth: int) -> list[int]:
    """Return how many of ``depth`` layers each scale has behind it: a third, half, two thirds, all.

    These are BEiT's blocks 3, 5, 7 and 11 of 12, and 7, 11, 15 and 23 of 24, counted from 0.
    """
    shares = ((1, 3), (1, 2), (2, 3), (1, 1))
    return [max(1, round(depth * part / whole)) for part, whole in shares]
