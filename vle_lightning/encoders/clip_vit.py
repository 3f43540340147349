"""CLIP's vision transformer (arXiv 2103.00020) on any image size that its patches divide: VLE's and METER's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig
from transformers.activations import ACT2FN

from vle_lightning.encoders.base import ImageEncoder, ImageEncoderConfig, PatchMask, blackened
from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.errors import UserError
from vle_lightning.projection import project
from vle_lightning.streams import ImageLayout, Stream


@dataclass(frozen=True)
class ClipViTConfig(ImageEncoderConfig):
    """Sizes of a CLIP ViT; the defaults are openai/clip-vit-base-patch16.

    ``position_std`` is the standard deviation that the positions are drawn with; None: that of all weights. It matters
    to a model that trains from scratch for a few thousand steps: patches of large weights drown small positions.
    ``pooling`` says what stands for an image: the first of its fused states (VLE, METER), or their mean,
    which alone tells how many patches show something.
    """

    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    activation: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    dropout: float = 0.0
    position_std: float | None = None
    pooling: Literal["first", "mean"] = "first"

    def build(self) -> ClipViT:
        """Make the module, its weights drawn at random."""
        return ClipViT(self)

    def published(self) -> CLIPVisionConfig:
        """Return the configuration of the same layers in transformers."""
        return CLIPVisionConfig(
            hidden_size=self.width,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            hidden_act=self.activation,
            attention_dropout=self.dropout,
            layer_norm_eps=self.layer_norm_eps,
            attn_implementation="sdpa",
        )


def quick_gelu(states: Tensor) -> Tensor:
    """Compute x sigmoid(1.702 x) as a SiLU, which has kernels of its own and keeps one tensor for backward."""
    return F.silu(1.702 * states) / 1.702


class Attention(nn.Module):
    """Multi-head self-attention, with the names of weights that transformers has."""

    def __init__(self, config: ClipViTConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, states: Tensor) -> Tensor:
        """Let states (B, N, D) read each other."""
        projected = project(states, self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projected)
        dropout = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        output: Tensor = self.out_proj(read.transpose(1, 2).flatten(2))
        return output


class FeedForward(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, config: ClipViTConfig) -> None:
        super().__init__()
        self.activation = quick_gelu if config.activation == "quick_gelu" else ACT2FN[config.activation]
        self.fc1 = nn.Linear(config.width, config.intermediate)
        self.fc2 = nn.Linear(config.intermediate, config.width)

    def forward(self, states: Tensor) -> Tensor:
        """Map states (B, N, D) to the same shape."""
        output: Tensor = self.fc2(self.activation(self.fc1(states)))
        return output


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, config: ClipViTConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        """Map states (B, N, D) to the same shape."""
        states = states + self.self_attn(self.layer_norm1(states))
        output: Tensor = states + self.mlp(self.layer_norm2(states))
        return output


class Stack(nn.Module):
    """The layers, under the names that published weights have."""

    def __init__(self, config: ClipViTConfig) -> None:
        super().__init__()
        self.config = config.published()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, states: Tensor) -> Tensor:
        """Map states (B, N, D) to the same shape."""
        for layer in self.layers:
            states = layer(states)
        return states


class ClipViT(ImageEncoder):
    """CLIP ViT whose post-layernorm applies to every token, as in VLE and METER."""

    config: ClipViTConfig

    def __init__(self, config: ClipViTConfig) -> None:
        super().__init__()
        if config.image_size % config.patch_size:
            raise ValueError(f"image_size {config.image_size} is not a multiple of patch_size {config.patch_size}")
        self.config = config
        self.width = self.hidden_width = config.width
        self.mean_pooled = config.pooling == "mean"
        self.layout = ImageLayout(1, config.patch_size)
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.position_embedding = nn.Embedding((config.image_size // config.patch_size) ** 2 + 1, config.width)
        self.pre_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.encoder = Stack(config)
        self.post_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        return self.encoder.layers

    def draw_positions(self) -> None:
        """Draw the position table anew, as ``position_std`` asks for."""
        if self.config.position_std is not None:
            nn.init.normal_(self.position_embedding.weight, std=self.config.position_std)

    def resize(self, image_size: int) -> None:
        """Resize the position table to square pictures: each of their patches trains its own row then."""
        if image_size % self.layout.patch_size:
            raise UserError(f"pictures of {image_size} pixels are no multiple of the patches, {self.layout.patch_size}")
        side = image_size // self.layout.patch_size
        with torch.no_grad():
            table = resize_position_table(self.position_embedding.weight, (side, side))
        trains = self.position_embedding.weight.requires_grad
        self.position_embedding = nn.Embedding.from_pretrained(table.detach().clone(), freeze=not trains)
        self.config = replace(self.config, image_size=image_size)

    def forward(self, pixel_values: Tensor, hidden: PatchMask | None = None) -> Stream:
        """Encode B images (B, 3, H, W), CLIP-normalised; states (B, 1 + P, D), CLS first, patches row by row."""
        if hidden is not None and hidden.vector is None:
            pixel_values = blackened(pixel_values, hidden.patches, self.layout, self.pixels)
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        if hidden is not None and hidden.vector is not None:
            patches = torch.where(hidden.patches[..., None], hidden.vector.to(patches.dtype), patches)
        cls = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        positions = resize_position_table(self.position_embedding.weight, self.layout.grid(pixel_values))
        states = self.pre_norm(torch.cat([cls, patches], dim=1) + positions)
        states = self.post_norm(self.encoder(states))
        return Stream(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))
