"""Drawings of what a model makes of its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.transforms.v2.functional import normalize

from vle_lightning.batch import IGNORED, PretrainBatch
from vle_lightning.encoders.image import patch_grid
from vle_lightning.models.dual_stream import DualStream
from vle_lightning.models.regions import box_patches
from vle_lightning.objectives.base import Objective
from vle_lightning.objectives.mlm import MaskedLanguageModelling
from vle_lightning.objectives.mpc import MaskedPatchClassification
from vle_lightning.objectives.pbc import PatchBoxClassification
from vle_lightning.streams import FusedView, ImageView, TextView

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SHOWN = 4  # samples in a drawing


class Picture(NamedTuple):
    """A drawing for TensorBoard and the run folder."""

    title: str
    figure: Figure


class Names(NamedTuple):
    """How numbers read: token ids as text, class numbers as names."""

    decode: Callable[[list[int]], str]
    classes: Sequence[str]

    def of_class(self, number: int) -> str:
        """Return the name of a class, or its number where the data set has no names."""
        return self.classes[number] if 0 <= number < len(self.classes) else str(number)


def to_picture(pixel_values: Tensor) -> np.ndarray:
    """Undo CLIP's normalisation: (3, H, W) float to (H, W, 3) in [0, 1]."""
    mean = [-m / s for m, s in zip(CLIP_MEAN, CLIP_STD, strict=True)]
    plain = normalize(pixel_values.float().cpu(), mean, [1 / s for s in CLIP_STD])
    picture: np.ndarray = plain.clamp(0, 1).permute(1, 2, 0).numpy()
    return picture


def draw_boxes(axes: Axes, boxes: Iterable[Tensor], size: tuple[int, int], colour: str) -> None:
    """Draw boxes (4,) xyxy, normalised, over a picture of ``size`` (height, width) pixels."""
    for x0, y0, x1, y1 in (box.tolist() for box in boxes):
        corner = (x0 * size[1] - 0.5, y0 * size[0] - 0.5)
        axes.add_patch(
            Rectangle(corner, (x1 - x0) * size[1], (y1 - y0) * size[0], fill=False, edgecolor=colour, linewidth=1.5)
        )


def draw_heat(axes: Axes, picture: np.ndarray, heat: Tensor, grid: tuple[int, int]) -> None:
    """Lay patch probabilities (P,) in [0, 1] over a picture."""
    axes.imshow(picture)
    height, width = picture.shape[:2]
    shape = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(heat.reshape(grid).cpu().numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.65, extent=shape)


@torch.no_grad()
def draw_pretraining(
    model: DualStream, objectives: Sequence[Objective], batch: PretrainBatch, names: Names
) -> list[Picture]:
    """Draw a few pairs: boxes and caption, PBC's heat map, MPC's and MLM's guesses.

    Args:
        model: the encoder, in eval mode.
        objectives: of the run; those that are missing leave their column out.
        batch: B pairs.
        names: of tokens and classes.
    """
    views = [FusedView(), FusedView(image=ImageView.MASKED), FusedView(text=TextView.MASKED)]
    by_type = {type(objective): objective for objective in objectives}
    mpc, pbc, mlm = (
        by_type.get(k) for k in (MaskedPatchClassification, PatchBoxClassification, MaskedLanguageModelling)
    )
    chosen = views if isinstance(mpc, MaskedPatchClassification) else [views[0], views[0], views[2]]
    clean, hidden, masked = model.fuse_views(batch, chosen, mpc.mask_vector if mpc else None)
    grid = patch_grid(batch.pixel_values, model.config.image.patch_size)
    rows = min(SHOWN, len(batch))
    figure = Figure(figsize=(10, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False)
    heats = pbc.logits(clean, batch).softmax(-1)[..., 1] if isinstance(pbc, PatchBoxClassification) else None
    guesses = mpc.logits(hidden, batch).argmax(-1) if isinstance(mpc, MaskedPatchClassification) else None
    for row in range(rows):
        _draw_sample(axes[row, 0], batch, row)
        if heats is not None:
            draw_heat(axes[row, 1], to_picture(batch.pixel_values[row]), heats[row], grid)
            axes[row, 1].set_title("PBC: patches that the text mentions", fontsize=8)
        if guesses is not None:
            _draw_hidden(axes[row, 2], batch, row, guesses[row], names, grid)
        if isinstance(mlm, MaskedLanguageModelling):
            axes[row, 1].set_xlabel(_restored(mlm, masked.text[row], batch, row, names), fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([]), axis.set_yticks([])
    return [Picture("pretraining", figure)]


def _draw_sample(axes: Axes, batch: PretrainBatch, row: int) -> None:
    picture = to_picture(batch.pixel_values[row])
    axes.imshow(picture)
    valid, mentioned = batch.box_valid[row], batch.box_mentioned[row]
    draw_boxes(axes, batch.boxes[row][valid & ~mentioned], picture.shape[:2], "white")
    draw_boxes(axes, batch.boxes[row][valid & mentioned], picture.shape[:2], "lime")
    axes.set_title(_wrapped(batch.texts[row]), fontsize=8)


def _draw_hidden(
    axes: Axes, batch: PretrainBatch, row: int, guesses: Tensor, names: Names, grid: tuple[int, int]
) -> None:
    picture = to_picture(batch.pixel_values[row])
    drawn = batch.box_drawn[row]
    covered = box_patches(batch.boxes[row], grid)[drawn].any(0).reshape(grid)
    scale = (picture.shape[0] // grid[0], picture.shape[1] // grid[1])
    picture[np.kron(covered.cpu().numpy(), np.ones(scale)).astype(bool)] = 0.5
    axes.imshow(picture)
    told = [
        f"{names.of_class(guess)} ({'right' if guess == truth else 'is ' + names.of_class(truth)})"
        for guess, truth in zip(guesses[drawn].tolist(), batch.box_classes[row][drawn].tolist(), strict=True)
    ]
    axes.set_title("MPC: " + ("; ".join(told) or "no box drawn"), fontsize=8)


def _restored(mlm: MaskedLanguageModelling, states: Tensor, batch: PretrainBatch, row: int, names: Names) -> str:
    where = batch.mlm_targets[row] != IGNORED
    guesses = mlm.logits(states[where]).argmax(-1).tolist()
    pairs = zip(guesses, batch.mlm_targets[row][where].tolist(), strict=True)
    told = [f"{names.decode([g])}{'' if g == t else f' (was {names.decode([t])})'}" for g, t in pairs]
    return "MLM: " + (", ".join(told) or "nothing masked")


def _wrapped(text: str, width: int = 48) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:4])
