"""Image towers. CLIP's vision transformer (arXiv 2103.00020) on any image size that its patches divide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoder

from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.streams import Stream

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of red, green and blue in [0, 1] (openai/CLIP)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageConfig:
    """Sizes of a CLIP ViT tower; the defaults are openai/clip-vit-base-patch16."""

    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    activation: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    dropout: float = 0.0


class PatchMask(NamedTuple):
    """Patches to hide from the tower."""

    patches: Tensor  # (B, P) bool
    vector: Tensor | None  # (D,) what stands in their place before the position embedding; None: black pixels


def patch_grid(pixel_values: Tensor, patch_size: int) -> tuple[int, int]:
    """Return height and width in patches of images (B, 3, H, W).

    Raises:
        ValueError: the patch size does not divide the image.
    """
    height, width = pixel_values.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(f"an image of {height} x {width} pixels is not a multiple of patch size {patch_size}")
    return height // patch_size, width // patch_size


class ImageEncoder(nn.Module):
    """CLIP ViT whose post-layernorm applies to every token, as in VLE and METER."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        if config.image_size % config.patch_size:
            raise ValueError(f"image_size {config.image_size} is not a multiple of patch_size {config.patch_size}")
        self.patch_size = config.patch_size
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(config.width) * config.width**-0.5)
        self.position_embedding = nn.Embedding((config.image_size // config.patch_size) ** 2 + 1, config.width)
        self.pre_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.encoder = CLIPEncoder(
            CLIPVisionConfig(
                hidden_size=config.width,
                intermediate_size=config.intermediate,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                hidden_act=config.activation,
                attention_dropout=config.dropout,
                layer_norm_eps=config.layer_norm_eps,
                attn_implementation="sdpa",
            )
        )
        self.post_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        layers = self.encoder.layers
        assert isinstance(layers, nn.ModuleList)
        return layers

    def resize_positions(self, image_size: int) -> None:
        """Resize the position table to pictures of so many pixels a side: each of their patches trains its own row."""
        side = image_size // self.patch_size
        with torch.no_grad():
            table = resize_position_table(self.position_embedding.weight, (side, side))
        trains = self.position_embedding.weight.requires_grad
        self.position_embedding = nn.Embedding.from_pretrained(table.detach().clone(), freeze=not trains)

    def forward(self, pixel_values: Tensor, hidden: PatchMask | None = None) -> Stream:
        """Encode B images (B, 3, H, W), CLIP-normalised; states (B, 1 + P, D), CLS first, patches row by row."""
        patches = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        if hidden is not None:
            vector = self._black() if hidden.vector is None else hidden.vector
            patches = torch.where(hidden.patches[..., None], vector.to(patches.dtype), patches)
        cls = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        positions = resize_position_table(self.position_embedding.weight, patch_grid(pixel_values, self.patch_size))
        states = self.pre_norm(torch.cat([cls, patches], dim=1) + positions)
        states = self.post_norm(self.encoder(inputs_embeds=states).last_hidden_state)
        return Stream(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))

    def _black(self) -> Tensor:
        """Return the embedding (D,) of a patch whose pixels are all black."""
        weight = self.patch_embedding.weight
        black = [-mean / std for mean, std in zip(CLIP_MEAN, CLIP_STD, strict=True)]
        embedding: Tensor = weight.sum((2, 3)) @ weight.new_tensor(black)
        return embedding
