"""Semantic segmentation: the image encoded alone, the states of four depths to UperNet."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import IGNORED, MaskBatch
from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import Architecture
from vle_lightning.metrics.mean_iou import PixelConfusion, segment_scores
from vle_lightning.models.backbone import Blind
from vle_lightning.models.upernet import SCALES, Maps, UperNet, pyramid_depths
from vle_lightning.optim import OptimConfig
from vle_lightning.tasks.base import EVALUATED, Stage
from vle_lightning.tasks.image_alone import ImageAloneTask
from vle_lightning.tasks.image_drawings import draw_masks
from vle_lightning.tasks.pictures import SHOWN, Names, Picture

MOST_NAMED = 20  # classes whose own scores are logged; of more they would fill the record


class SegmentationTask(ImageAloneTask):
    """Cross entropy over the classes of each pixel, as BEiT fine-tunes on ADE20K (arXiv 2106.08254).

    Pixels of no class reach neither loss nor score. A split is scored by the mean intersection over union, at the size
    at which each mask was drawn: scores are interpolated to it, the mask never is.
    """

    monitor = "val/miou"
    class_bias = "decode_head.classifier.bias"

    def __init__(
        self,
        architecture: Architecture = "vle-base",
        classes: int = 150,
        channels: int = 512,
        depths: list[int] | None = None,
        auxiliary_weight: float = 0.4,
        init: str | None = None,
        blind: Blind = "none",
        optim: OptimConfig = OptimConfig(head_multiplier=1.0),  # noqa: B008 (frozen)
        seed: int = 0,
    ) -> None:
        """Build the encoder and UperNet on the states of four of its depths.

        Args:
            architecture: a preset, or a composition in plain types (`read_architecture`).
            classes: C, how many classes there are; the data module's list has as many.
            channels: of UperNet's maps.
            depths: how many layers each of the four scales has behind it, the finest first; a third, half, two thirds
                and all of them by default, BEiT's.
            auxiliary_weight: of the loss of a small head on the third scale (mmsegmentation's); 0 makes none.
            init: a checkpoint or run folder to start from.
            blind: the masked modality: image, text or none.
            optim: learning rates and schedule.
            seed: of dropout.

        Raises:
            UserError: an option is out of range, or the encoder does not fit it.
        """
        super().__init__(architecture, classes, blind, optim, seed)
        self.depths = depths or pyramid_depths(self.model.image_depth)
        deepest = self.model.image_depth
        # a depth of 0 means that the backbone has no such path, which it says itself
        within = not deepest or all(0 < depth <= deepest for depth in self.depths)
        if len(self.depths) != SCALES or self.depths != sorted(self.depths) or not within:
            raise UserError(
                f"model.depths is {self.depths}; give {SCALES} numbers of layers from 1 to {deepest}, none below the "
                "one before it"
            )
        if channels < 1 or not 0 <= auxiliary_weight < float("inf"):
            told = f"model.channels is {channels} and model.auxiliary_weight {auxiliary_weight}"
            raise UserError(f"{told}; give at least 1, and at least 0")
        self.auxiliary_weight = auxiliary_weight
        self.options = {"classes": classes, "channels": channels, "depths": depths}
        self.options["auxiliary_weight"] = auxiliary_weight
        width = self.begin(self.layers_read)
        self.head = UperNet(width, channels, classes, auxiliary_weight > 0)
        self.add_scores(["loss"])
        self._confusion = nn.ModuleDict({stage.value: PixelConfusion(classes) for stage in EVALUATED})
        self.start_encoder(init)

    @property
    def layers_read(self) -> list[int]:
        """The different depths, rising."""
        return sorted(set(self.depths))

    def forward(self, batch: MaskBatch) -> Maps:
        """Score the classes, (B, C, 4 rows, 4 columns) of the patches' grid."""
        pixels, layout = batch.pixel_values, self.model.layout
        streams = dict(zip(self.layers_read, self.model.image_layers(pixels, self.layers_read), strict=True))
        states = [layout.patches(streams[depth].states, pixels) for depth in self.depths]
        maps: Maps = self.head(states, layout.grid(pixels))
        return maps

    def step(self, batch: MaskBatch, stage: Stage) -> Tensor:  # type: ignore[override]
        """Average cross entropy over the pixels that have a class."""
        maps = self(batch)
        targets = batch.targets.masked_fill(~batch.valid[:, None, None], IGNORED)
        known = (targets != IGNORED).sum()
        loss, logits = pixel_loss(maps.logits, targets, known)
        if maps.auxiliary is not None:
            loss = loss + self.auxiliary_weight * pixel_loss(maps.auxiliary, targets, known)[0]
        if stage is Stage.TRAIN:
            self.score(stage, "pixel_accuracy", (logits.detach().argmax(1) == targets).sum(), known)
        else:
            self.score(stage, "loss", loss.detach() * known, known)
            self._judge(batch, maps.logits, targets, stage)
        return loss

    def _judge(self, batch: MaskBatch, logits: Tensor, targets: Tensor, stage: Stage) -> None:
        confusion = self._confusion[stage.value]
        assert isinstance(confusion, PixelConfusion)
        for row, (guessed, truth) in enumerate(own_sizes(batch, logits, targets)):
            if batch.valid[row]:
                confusion.update(guessed, truth)

    def split_scores(self, stage: Stage) -> dict[str, float]:
        """Return mean IoU and accuracies of the split; of few classes also the IoU of each."""
        confusion = self._confusion[stage.value]
        assert isinstance(confusion, PixelConfusion)
        scores = segment_scores(confusion.compute().tolist(), self.class_names())
        confusion.reset()
        found = {
            "miou": scores.miou,
            "pixel_accuracy": scores.pixel_accuracy,
            "mean_accuracy": scores.mean_accuracy,
        }
        if self.classes > MOST_NAMED:
            return found
        return found | {f"iou_{re.sub(r'[^A-Za-z0-9]+', '_', name)}": share for name, share in scores.iou.items()}

    @torch.no_grad()
    def pictures(self, batch: MaskBatch, names: Names) -> Iterable[Picture]:  # type: ignore[override]
        """Draw images beside their masks and what the model takes their pixels for."""
        del names
        guesses = scaled(self(batch).logits[:SHOWN], batch.targets.shape[-2:]).argmax(1)
        return [draw_masks(batch, guesses, self.class_names(), self.model.pixels)]

    def predict_step(self, batch: MaskBatch) -> list[dict[str, object]]:
        """Return the mask of each valid image, a PNG in base64 of class + 1 at each pixel, at the mask's own size."""
        found = own_sizes(batch, self(batch).logits, batch.targets)
        return [
            {
                "id": name,
                "mask_png": base64.b64encode(mask_png(guessed)).decode(),
                "pixel_accuracy": float((guessed == truth)[truth >= 0].float().mean()) if (truth >= 0).any() else None,
            }
            for name, (guessed, truth), valid in zip(batch.sample_ids, found, batch.valid.tolist(), strict=True)
            if valid
        ]


def scaled(logits: Tensor, size: Iterable[int]) -> Tensor:
    """Interpolate scores (B, C, rows, columns) to a size in pixels, bilinear, in float32: (B, C, height, width)."""
    return F.interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)


def pixel_loss(logits: Tensor, targets: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross entropy () over ``known`` () pixels, and the scores (B, C, H, W) at the targets' size."""
    full = scaled(logits, targets.shape[-2:])
    loss = F.cross_entropy(full, targets, ignore_index=IGNORED, reduction="sum") / known.clamp(min=1)
    return loss, full


def own_sizes(batch: MaskBatch, logits: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each image's predicted and true classes (h, w) at the size of its own mask; negative: no class."""
    for row in range(len(batch)):
        truth = targets[row]
        if batch.own_targets:
            truth = torch.from_numpy(batch.own_targets[row]).to(logits.device).long() - 1
        yield scaled(logits[row, None], truth.shape)[0].argmax(0), truth


def mask_png(classes: Tensor) -> bytes:
    """Encode a mask (h, w) of classes as masks are stored: class + 1 at each pixel."""
    file = io.BytesIO()
    Image.fromarray((classes + 1).byte().cpu().numpy()).save(file, "PNG")
    return file.getvalue()


Task = SegmentationTask
