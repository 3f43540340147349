"""A model as a dual encoder: the unit vectors of texts and of images that its first way of contrast compares."""

from __future__ import annotations

import hashlib

from torch import Tensor, nn

from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import Pretrained, architecture_of, fill_pretrained
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.contrastive import ContrastiveHead

HEAD = "itc"


class DualEncoder(nn.Module):
    """An encoder and its contrastive head."""

    def __init__(self, pretrained: Pretrained) -> None:
        """Build what a source describes, and fill it.

        Raises:
            UserError: the source has no contrastive head, or does not fit.
        """
        super().__init__()
        if HEAD not in pretrained.heads:
            raise UserError(
                f"{pretrained.source} has no head '{HEAD}', which gives texts and images vectors; name a model that "
                "was trained with contrast (task dual_retrieval, or the objective itc of pre-training)"
            )
        self.model: Backbone = architecture_of(pretrained).build()
        self.head = ContrastiveHead(self.model.width, self.model.init_std, self.model.contrast_width)
        self.load_report = fill_pretrained(pretrained, self.model, {HEAD: self.head}, "source")

    @property
    def width(self) -> int:
        """C, numbers of a vector."""
        return self.head.text.out_features

    @property
    def digest(self) -> str:
        """SHA-256 of the weights that make vectors, by name, shape and value in single precision."""
        found = hashlib.sha256()
        for name, weight in sorted(self.state_dict().items()):
            values = weight.detach().cpu().float().contiguous()
            found.update(f"{name} {tuple(values.shape)}\n".encode())
            found.update(values.numpy().data)
        return found.hexdigest()

    def embed_texts(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return unit vectors (B, C) of texts (B, T), float32."""
        stream = self.model.encode_text(input_ids, attention_mask)
        return self.head.embed_texts(self.model.encode_alone(stream, "text", first=True)[0])

    def embed_images(self, pixel_values: Tensor) -> Tensor:
        """Return unit vectors (B, C) of images (B, 3, H, W), float32."""
        stream = self.model.encode_image(pixel_values)
        return self.head.embed_images(self.model.encode_alone(stream, "image", first=True)[0])
