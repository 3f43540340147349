"""The pooled pair alone, where nothing else of the fused states is read."""

from __future__ import annotations

import torch
from torch import Tensor

from vle_lightning.models.dual_stream import IMAGE_TYPE, TEXT_TYPE, DualStream
from vle_lightning.streams import Stream


def pool_pairs(model: DualStream, text: Stream, image: Stream) -> Tensor:
    """Compute ``model.fuse(text, image).pooled`` without the states of the last layer that no pooler reads.

    Only CLS asks there, so that queries, output and feed forward of the other tokens fall away: most of the layer.

    Args:
        model: the encoder.
        text: B texts: states (B, T, D), mask (B, T).
        image: B images: states (B, N, D), mask (B, N). Item i is fused with text i.

    Returns:
        The pooled pair (B, 2D): text CLS, then image CLS.
    """
    types = model.token_types.weight
    texts, images = text.states + types[TEXT_TYPE], image.states + types[IMAGE_TYPE]
    text_mask, image_mask = text.mask[:, None, None, :], image.mask[:, None, None, :]
    layers = list(zip(model.fusion.text, model.fusion.image, strict=True))
    for text_layer, image_layer in layers[:-1]:
        texts, images = (
            text_layer(texts, text_mask, images, image_mask),
            image_layer(images, image_mask, texts, text_mask),
        )
    text_layer, image_layer = layers[-1]
    text_cls = text_layer(texts, text_mask, images, image_mask, 1)
    image_cls = image_layer(images, image_mask, texts, text_mask, 1)
    return torch.cat([model.text_pooler(text_cls), model.image_pooler(image_cls)], dim=-1)
