"""What VLMo is made of (arXiv 2111.02358): embeddings, and blocks of shared attention and experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.encoders.base import PatchMask
from vle_lightning.encoders.positions import resize_position_table

if TYPE_CHECKING:
    from vle_lightning.models.mome import MoMEConfig

TEXT: Literal["text"] = "text"  # names of the experts
IMAGE: Literal["image"] = "image"
PAIR = "pair"


class Route(NamedTuple):
    """Which expert each part of a call's rows and tokens passes: parts along the rows, each cut along the tokens."""

    parts: tuple[tuple[int, tuple[tuple[int, str], ...]], ...]  # (rows, ((tokens, expert), ...)), ...
    text_tokens: int = 0  # of a pair: how many of its states are text

    @classmethod
    def whole(cls, states: Tensor, expert: str, text_tokens: int = 0) -> Self:
        """Send all of (B, N, D) to one expert."""
        return cls(((len(states), ((states.shape[1], expert),)),), text_tokens)


class Expert(nn.Module):
    """A norm and the feed-forward layer behind it."""

    def __init__(self, config: MoMEConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.width, config.intermediate)
        self.fc2 = nn.Linear(config.intermediate, config.width)

    def forward(self, states: Tensor) -> Tensor:
        """Map states (B, N, D) to the same shape, without the residual."""
        output: Tensor = self.fc2(F.gelu(self.fc1(self.norm(states))))
        return output


class BiasedAttention(nn.Module):
    """Self-attention with a bias on queries and values, none on keys, and a relative bias on scores, as in BEiT."""

    def __init__(self, config: MoMEConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.width))
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.proj = nn.Linear(config.width, config.width)

    def project(self, states: Tensor, asking: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, M, D / H) of ``asking``, and keys and values (B, H, N, D / H) of ``states``."""
        nothing = torch.zeros_like(self.v_bias)
        if asking is None:
            bias = torch.cat([self.q_bias, nothing, self.v_bias])
            projected = F.linear(states, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
            query, key, value = projected.permute(2, 0, 3, 1, 4)
            return query, key, value
        width = len(self.q_bias)
        weights = self.qkv.weight.split([width, 2 * width])
        query = F.linear(asking, weights[0], self.q_bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        projected = F.linear(states, weights[1], torch.cat([nothing, self.v_bias])).unflatten(-1, (2, self.heads, -1))
        key, value = projected.permute(2, 0, 3, 1, 4)
        return query, key, value

    def forward(self, states: Tensor, scores: Tensor, asking: Tensor | None = None) -> Tensor:
        """Let states (B, N, D) read each other.

        Args:
            states: (B, N, D).
            scores: (B or 1, H or 1, M, N), which are added; -inf where masked.
            asking: (B, M, D), those of the states that read; all by default.
        """
        query, key, value = self.project(states, asking)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=scores.to(query.dtype))
        output: Tensor = self.proj(read.transpose(1, 2).flatten(2))
        return output

    def weights(self, states: Tensor, scores: Tensor, asking: Tensor | None = None) -> Tensor:
        """Say how much each asking state reads of each: (B, H, M, N) float, rows that sum to one."""
        query, key, _ = self.project(states, asking)
        found = query.float() @ key.float().transpose(-1, -2) / query.shape[-1] ** 0.5
        weights: Tensor = (found + scores).softmax(-1)
        return weights


class MoMEBlock(nn.Module):
    """Attention that all share, then experts; before each a norm, behind each a learned scale (BEiT's block)."""

    def __init__(self, config: MoMEConfig, number: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attention = BiasedAttention(config)
        with_pairs = number >= config.layers - config.fusion_layers and not config.shared_experts
        names = (TEXT,) if config.shared_experts else (TEXT, IMAGE, PAIR) if with_pairs else (TEXT, IMAGE)
        self.experts = nn.ModuleDict({name: Expert(config) for name in names})
        self.drop = config.drop_path * number / max(config.layers - 1, 1)
        self.scale_1, self.scale_2 = (_scale(config) for _ in range(2))

    def forward(self, states: Tensor, scores: Tensor, route: Route, asking: Tensor | None = None) -> Tensor:
        """Map states (B, N, D), or only ``asking`` (B, M, D) of them, to the same shape; see `BiasedAttention`."""
        read = self.attention(self.norm(states), scores, None if asking is None else self.norm(asking))
        read = read if self.scale_1 is None else self.scale_1 * read
        states = (states if asking is None else asking) + self._dropped(read)
        branch = torch.cat([self._experts(part, tokens) for part, tokens in _rows(states, route)])
        return states + branch

    def _experts(self, states: Tensor, tokens: tuple[tuple[int, str], ...]) -> Tensor:
        pieces = states.split([count for count, _ in tokens], dim=1)
        outputs = [self._expert(name)(piece) for piece, (_, name) in zip(pieces, tokens, strict=True)]
        if self.scale_2 is not None:
            outputs = [self.scale_2 * output for output in outputs]
        return torch.cat([self._dropped(output) for output in outputs], dim=1)

    def _expert(self, name: str) -> nn.Module:
        return self.experts[name if name in self.experts else TEXT]

    def _dropped(self, branch: Tensor) -> Tensor:
        """Drop a branch of whole samples at random (stochastic depth, arXiv 1603.09382)."""
        if not self.training or not self.drop:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop
        return branch * kept.to(branch.dtype) / (1 - self.drop)


def _scale(config: MoMEConfig) -> nn.Parameter | None:
    return None if config.layer_scale is None else nn.Parameter(torch.full((config.width,), config.layer_scale))


def _rows(states: Tensor, route: Route) -> Iterator[tuple[Tensor, tuple[tuple[int, str], ...]]]:
    pieces = states.split([rows for rows, _ in route.parts])
    for piece, (_, tokens) in zip(pieces, route.parts, strict=True):
        yield piece, tokens


class TextEmbeddings(nn.Module):
    """BERT's embeddings: words, segment 0, positions if absolute; then a norm and dropout."""

    def __init__(self, config: MoMEConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.text_positions, config.width) if config.positions == "absolute" else None
        self.segments = nn.Embedding(2, config.width)
        self.norm = nn.LayerNorm(config.width, eps=1e-12)  # BERT's, in VLMo too
        self.dropout = nn.Dropout(config.drop_path)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed B texts (B, T): (B, T, D)."""
        states = self.words(input_ids) + self.segments.weight[0]
        if self.positions is not None:
            states = states + self.positions.weight[: input_ids.shape[1]]
        embedded: Tensor = self.dropout(self.norm(states))
        return embedded


class PatchEmbeddings(nn.Module):
    """Patches behind a class token, with positions if absolute."""

    def __init__(self, config: MoMEConfig) -> None:
        super().__init__()
        side = config.image_size // config.patch_size
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        absolute = config.positions == "absolute"
        self.position_embedding = nn.Embedding(1 + side**2, config.width) if absolute else None

    def forward(self, pixel_values: Tensor, hidden: PatchMask | None, grid: tuple[int, int]) -> Tensor:
        """Embed B images (B, 3, H, W): (B, 1 + P, D)."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        if hidden is not None and hidden.vector is not None:
            patches = torch.where(hidden.patches[..., None], hidden.vector.to(patches.dtype), patches)
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        states = torch.cat([first, patches], dim=1)
        if self.position_embedding is not None:
            states = states + resize_position_table(self.position_embedding.weight, grid)
        return states


def added_scores(biases: Tensor | None, layer: int, mask: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Return what is added to a layer's scores: (B, H or 1, N, N), -inf on masked keys."""
    keys = mask[:, None, None, :] if allowed is None else mask[:, None, None, :] & allowed
    zero = torch.zeros((), device=mask.device) if biases is None else biases[layer][None]
    scores = zero.masked_fill(~keys, -torch.inf)
    return scores if scores.shape[-2] > 1 else scores.expand(-1, -1, mask.shape[1], -1)
