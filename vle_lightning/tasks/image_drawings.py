"""Drawings of what a model makes of images without texts: their class, or that of each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from torch import Tensor

from vle_lightning.batch import IGNORED, LabelBatch, MaskBatch
from vle_lightning.encoders.base import PixelFacts
from vle_lightning.tasks.pictures import (
    OTHER,
    RIGHT,
    SHOWN,
    WRONG,
    Bar,
    Picture,
    draw_bars,
    make_sheet,
    to_picture,
    wrapped,
)

TOP = 5  # classes
NAMED = 12  # classes in the legend of a drawing
PAIRED = 20  # colours of matplotlib's tab20


def draw_labels(batch: LabelBatch, probabilities: Tensor, names: Sequence[str], pixels: PixelFacts) -> Picture:
    """Draw images and their most probable classes beside the true one.

    Args:
        batch: B images; the first few are drawn.
        probabilities: (B, C) of the classes.
        names: of the C classes.
        pixels: how the batch's pixels are normalised.
    """
    rows = min(SHOWN, len(batch))
    figure, axes = make_sheet(rows, (2.8, 3.6))
    for row in range(rows):
        target, best = int(batch.targets[row]), probabilities[row].topk(min(TOP, len(names)))
        axes[row, 0].imshow(to_picture(batch.pixel_values[row], pixels))
        places = enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        bars = [
            Bar(names[number], share, RIGHT if number == target else OTHER if place else WRONG)
            for place, (number, share) in places
        ]
        draw_bars(axes[row, 1], bars)
        told = "not known" if target == IGNORED else names[target]
        axes[row, 1].set_title(wrapped(f"truth: {told}", lines=2), fontsize=8)
    return Picture("classes", figure)


def draw_masks(batch: MaskBatch, guesses: Tensor, names: Sequence[str], pixels: PixelFacts) -> Picture:
    """Draw images, their masks, and what the model takes each pixel for; pixels of no class are black in both.

    Args:
        batch: B images; the first few are drawn.
        guesses: (N, H, W) int64 classes of the first N images.
        names: of the C classes.
        pixels: how the batch's pixels are normalised.
    """
    rows = min(SHOWN, len(batch), len(guesses))
    figure, axes = make_sheet(rows, (2.8, 2.8, 2.8))
    colours = class_colours(len(names))
    seen: set[int] = set()
    for row in range(rows):
        truth = batch.targets[row].cpu().numpy()
        guess = np.where(truth == IGNORED, IGNORED, guesses[row].cpu().numpy())
        axes[row, 0].imshow(to_picture(batch.pixel_values[row], pixels))
        for axis, mask in zip(axes[row, 1:], (truth, guess), strict=True):
            axis.imshow(np.where(mask == IGNORED, 0, mask + 1), cmap=colours, vmin=0, vmax=len(names))
            seen.update(np.unique(mask[mask != IGNORED]).tolist())
        share = float((truth == guess)[truth != IGNORED].mean()) if (truth != IGNORED).any() else float("nan")
        axes[row, 1].set_title("mask", fontsize=8)
        axes[row, 2].set_title(f"predicted: {share:.0%} of the pixels right", fontsize=8)
    shown = sorted(seen)[:NAMED]
    patches = [Patch(color=colours(number + 1), label=wrapped(names[number], 20, 1)) for number in shown]
    if (batch.targets[:rows] == IGNORED).any():
        patches.append(Patch(color=colours(0), label="no class"))
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=7)
    return Picture("masks", figure)


def class_colours(classes: int) -> ListedColormap:
    """Return black for no class, then a colour a class; neighbours in the list differ."""
    if classes <= PAIRED:
        order = [*range(0, PAIRED, 2), *range(1, PAIRED, 2)]  # a dark and a light one of each hue lie together
        chosen = [matplotlib.colormaps["tab20"](place) for place in order[:classes]]
    else:
        step = 7  # coprime to most counts: spreads neighbours over the wheel
        chosen = [matplotlib.colormaps["gist_ncar"](number * step % classes / classes) for number in range(classes)]
    return ListedColormap([(0.0, 0.0, 0.0, 1.0), *chosen])
