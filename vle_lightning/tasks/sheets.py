"""Drawings of a whole split, or of a batch as a whole: a confusion matrix, a retrieval sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from vle_lightning.batch import RetrievalBatch
from vle_lightning.encoders.base import PixelFacts
from vle_lightning.errors import UserError
from vle_lightning.tasks.pictures import OTHER, RIGHT, WRONG, Picture, make_sheet, to_picture, wrapped

QUERIES = 4  # of a retrieval sheet, texts and images each
BEST = 5  # found for each query
GALLERY = 16  # images of a sheet

Pictures = Mapping[int, np.ndarray]  # by number


def draw_confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> Picture:
    """Draw which class was taken for which.

    Args:
        counts: (C, C): row the true class, column the predicted one.
        labels: names of the C classes.

    Raises:
        UserError: the counts are not as many as the labels, both ways.
    """
    if any(len(part) != len(labels) for part in (counts, *counts)):
        raise UserError(f"a confusion matrix of {len(labels)} classes needs as many rows and columns of counts")
    size = 2.2 + 0.9 * len(labels)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    table = torch.tensor(counts, dtype=torch.float64).reshape(len(labels), len(labels))
    shares = table / table.sum(1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for true, row in enumerate(counts):
        for predicted, count in enumerate(row):
            share = float(shares[true, predicted])
            told = f"{count}\n{share:.0%}"
            axes.text(predicted, true, told, ha="center", va="center", color="white" if share > 0.5 else "black")
    names = [wrapped(label, 14) for label in labels]
    axes.set_xticks(range(len(names)), names), axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted"), axes.set_ylabel("true")
    axes.set_title(f"{int(table.trace())} of {int(table.sum())} right; shares of each row", fontsize=9)
    return Picture("confusion", figure)


def gallery(batch: RetrievalBatch, most: int = GALLERY) -> RetrievalBatch:
    """Keep the first ``most`` valid images of a batch, and their texts: few enough to score every pair for a sheet.

    Of fillers alone it keeps one: a rank that has nothing else draws along with the others.
    """
    rows = batch.valid.nonzero().flatten()[:most]
    rows = rows if len(rows) else torch.zeros(1, dtype=torch.long, device=batch.valid.device)
    places = torch.full_like(batch.valid, -1, dtype=torch.long)
    places[rows] = torch.arange(len(rows), device=rows.device)
    texts = (places[batch.owners] >= 0).nonzero().flatten()
    return replace(
        batch,
        sample_ids=tuple(batch.sample_ids[row] for row in rows.tolist()),
        valid=batch.valid[rows],
        pixel_values=batch.pixel_values[rows],
        input_ids=batch.input_ids[texts],
        attention_mask=batch.attention_mask[texts],
        owners=places[batch.owners][texts],
        image_ids=tuple(batch.image_ids[row] for row in rows.tolist()),
        text_ids=tuple(batch.text_ids[text] for text in texts.tolist()),
        texts=tuple(batch.texts[text] for text in texts.tolist()),
        shifts=batch.shifts[:0],
    )


def retrieval_sheet(
    pixel_values: Tensor,
    texts: Sequence[str],
    scores: Tensor,
    owners: Tensor,
    pixels: PixelFacts = PixelFacts(),  # noqa: B008 (immutable)
) -> Picture:
    """Draw a few texts with the images found for them, and a few images with the texts found; right ones are marked.

    Args:
        pixel_values: (I, 3, H, W), normalised.
        texts: T of them.
        scores: (I, T), the higher the better.
        owners: (T,) int64: the number of the image that each text describes.
        pixels: how the pixels are normalised.

    Raises:
        UserError: the sizes do not fit.
    """
    images, count = len(pixel_values), len(texts)
    if scores.shape != (images, count) or len(owners) != count:
        raise UserError(
            f"a sheet of {images} images and {count} texts needs scores {images} x {count} and {count} owners, "
            f"not {tuple(scores.shape)} and {len(owners)}"
        )
    firsts = {int(owner): text for text, owner in reversed(list(enumerate(owners.tolist())))}
    queries = sorted(firsts.values())[:QUERIES]  # of different images
    asked = list(range(min(QUERIES, images)))
    best = min(BEST, images)
    shown = {*asked, *(i for text in queries for i in scores[:, text].topk(best).indices.tolist())}
    pictures = {image: to_picture(pixel_values[image], pixels) for image in shown}
    figure, axes = make_sheet(len(queries) + len(asked), (3.0, *(1.8,) * BEST), 1.9)
    for row, text in enumerate(queries):
        _draw_query(axes[row], texts[text], scores[:, text], int(owners[text]), pictures, best)
    for row, image in enumerate(asked, start=len(queries)):
        grid = axes[row, 1].get_gridspec()
        for axis in axes[row, 1:]:
            axis.remove()
        axes[row, 0].imshow(pictures[image])
        axes[row, 0].set_title("texts for this image", fontsize=8)
        _draw_found(figure.add_subplot(grid[row, 1:]), texts, scores[image], (owners == image).tolist())
    return Picture("retrieval", figure)


def _draw_query(axes: Sequence[Axes], text: str, scores: Tensor, owner: int, pictures: Pictures, best: int) -> None:
    """Draw one text, and its ``best`` images by ``scores`` (I,), the right one framed."""
    place = int((scores >= scores[owner]).sum())  # ties count against us
    told = f"images for:\n{wrapped(text, 34)}\n\nthe right one is number {place} of {len(scores)}"
    axes[0].text(0, 0.5, told, fontsize=8, va="center")
    axes[0].set_xlim(0, 1), axes[0].set_ylim(0, 1), axes[0].axis("off")
    for axis, image in zip(axes[1:], scores.topk(best).indices.tolist(), strict=False):
        axis.imshow(pictures[image])
        axis.set_title(f"{float(scores[image]):.2f}", fontsize=8)
        _frame(axis, RIGHT if image == owner else OTHER)
    for axis in axes[1 + best :]:
        axis.axis("off")


def _draw_found(axes: Axes, texts: Sequence[str], scores: Tensor, right: Sequence[bool]) -> None:
    """List the best texts for an image by ``scores`` (T,), each with its score."""
    found = scores.topk(min(BEST, len(texts))).indices.tolist()
    colours = [RIGHT if right[text] else WRONG if not place else OTHER for place, text in enumerate(found)]
    axes.barh(range(len(found)), 1, color=colours, height=0.85)
    for place, text in enumerate(found):
        axes.text(0.01, place, f"{float(scores[text]):.2f}", fontsize=7.5, va="center")
        axes.text(0.08, place, wrapped(texts[text], 95, 2), fontsize=7.5, va="center")
    axes.set_xlim(0, 1), axes.set_ylim(max(len(found), 2) - 0.5, -0.5)
    axes.axis("off")


def _frame(axes: Axes, colour: str) -> None:
    for spine in axes.spines.values():
        spine.set(edgecolor=colour, linewidth=4)
