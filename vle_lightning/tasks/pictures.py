"""Drawings of what a model makes of its samples: what all of them share, and those of pre-training."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.transforms.v2.functional import normalize

from vle_lightning.batch import IGNORED, PretrainBatch
from vle_lightning.encoders.base import PixelFacts
from vle_lightning.models.backbone import Backbone
from vle_lightning.models.regions import box_patches
from vle_lightning.objectives.base import Objective
from vle_lightning.objectives.mlm import MaskedLanguageModelling
from vle_lightning.objectives.mpc import MaskedPatchClassification
from vle_lightning.objectives.passes import fuse_views
from vle_lightning.objectives.pbc import PatchBoxClassification
from vle_lightning.streams import FusedView
from vle_lightning.tasks.looks import look

SHOWN = 4  # samples in a drawing
RIGHT, WRONG, OTHER = "#8fd19e", "#f4b183", "#d9d9d9"  # fillings of bars: the truth, a wrong prediction, the rest


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


def to_picture(pixel_values: Tensor, pixels: PixelFacts = PixelFacts()) -> np.ndarray:  # noqa: B008 (immutable)
    """Undo the normalisation: (3, H, W) float to (H, W, 3) in [0, 1]."""
    plain = normalize(pixel_values.float().cpu(), pixels.black, [1 / std for std in pixels.std])
    picture: np.ndarray = plain.clamp(0, 1).permute(1, 2, 0).numpy()
    return picture


def draw_boxes(axes: Axes, boxes: Iterable[Tensor], size: tuple[int, int], colour: str) -> None:
    """Draw boxes (4,) xyxy, normalised, over a picture of ``size`` (height, width) pixels."""
    for x0, y0, x1, y1 in (box.tolist() for box in boxes):
        corner = (x0 * size[1] - 0.5, y0 * size[0] - 0.5)
        axes.add_patch(
            Rectangle(corner, (x1 - x0) * size[1], (y1 - y0) * size[0], fill=False, edgecolor=colour, linewidth=1.5)
        )


def draw_heat(axes: Axes, picture: np.ndarray, heat: Tensor) -> None:
    """Lay patch probabilities (rows, columns) in [0, 1] over a picture."""
    axes.imshow(picture)
    height, width = picture.shape[:2]
    shape = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(heat.float().cpu().numpy(), cmap="inferno", vmin=0, vmax=1, alpha=0.65, extent=shape)


def draw_attention(axes: Axes, picture: np.ndarray, heat: Tensor | None) -> None:
    """Lay shares of attention (rows, columns) over a picture, the strongest in full, and say how strong that is."""
    if heat is None:
        axes.imshow(np.ones_like(picture))
        axes.set_title("the model sees no picture", fontsize=8)
        return
    most = float(heat.max())
    draw_heat(axes, picture, heat / max(most, torch.finfo(heat.dtype).tiny))
    axes.set_title(f"attention: {float(heat.sum()):.0%} on patches, at most {most:.1%}", fontsize=8)


class Bar(NamedTuple):
    """A candidate and how probable it is."""

    text: str
    probability: float
    colour: str = OTHER


def draw_bars(axes: Axes, bars: Sequence[Bar], width: int = 38) -> None:
    """Draw candidates from top to bottom, each text in its bar, wrapped to ``width`` characters."""
    axes.barh(range(len(bars)), [bar.probability for bar in bars], color=[bar.colour for bar in bars], height=0.85)
    for row, bar in enumerate(bars):
        axes.text(0.01, row, wrapped(bar.text, width), fontsize=7.5, va="center")
        axes.text(1.02, row, f"{bar.probability:.0%}", fontsize=7.5, va="center")
    axes.set_xlim(0, 1.12)
    axes.set_ylim(max(len(bars), 2) - 0.5, -0.5)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def make_sheet(rows: int, widths: Sequence[float], height: float = 2.6) -> tuple[Figure, np.ndarray]:
    """Make a figure of ``rows`` x ``len(widths)`` axes without ticks, columns ``widths`` inches wide.

    Rows that are higher than their square pictures are wide would cut off titles: matplotlib lays them out too tightly.
    """
    figure = Figure(figsize=(sum(widths), height * rows), layout="constrained")
    axes = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths)
    for axis in axes.flat:
        axis.set_xticks([]), axis.set_yticks([])
    return figure, axes


def wrapped(text: str, width: int = 42, lines: int = 4) -> str:
    """Break a text into at most so many lines; what does not fit becomes dots."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" ..."))


@torch.no_grad()
def draw_pretraining(
    model: Backbone,
    objectives: Sequence[Objective],
    views: Mapping[str, FusedView],
    batch: PretrainBatch,
    names: Names,
) -> list[Picture]:
    """Draw a few pairs: boxes and caption, PBC's heat map (or else the attention), MPC's and MLM's guesses.

    Args:
        model: the encoder, in eval mode.
        objectives: of the run; those that are missing leave their column out.
        views: what each objective reads, by its name.
        batch: B pairs.
        names: of tokens and classes.
    """
    plain = FusedView()
    by_type = {type(objective): objective for objective in objectives}
    mpc, pbc, mlm = (
        by_type.get(k) for k in (MaskedPatchClassification, PatchBoxClassification, MaskedLanguageModelling)
    )
    chosen = [plain, views.get("mpc", plain), views.get("mlm", plain)]
    clean, hidden, masked = fuse_views(model, batch, chosen, mpc.vectors() if mpc else {})
    grid = model.layout.grid(batch.pixel_values)
    rows = min(SHOWN, len(batch))
    figure, axes = make_sheet(rows, (3.6, 3.6, 3.6), 3.5)
    heats = pbc.logits(clean, batch).softmax(-1)[..., 1] if isinstance(pbc, PatchBoxClassification) else None
    looks = look(model, lambda pairs: fuse_views(model, pairs, [plain])[0].pooled, batch) if heats is None else None
    guesses = mpc.logits(hidden, batch).argmax(-1) if isinstance(mpc, MaskedPatchClassification) else None
    for row in range(rows):
        picture = to_picture(batch.pixel_values[row], model.pixels)
        _draw_sample(axes[row, 0], picture, batch, row)
        if heats is not None:
            draw_heat(axes[row, 1], picture, heats[row].unflatten(-1, grid))
            axes[row, 1].set_title("PBC: patches that the text mentions", fontsize=8)
        elif looks is not None:
            draw_attention(axes[row, 1], picture, None if looks.heat is None else looks.heat[row, 0])
        if guesses is not None:
            _draw_hidden(axes[row, 2], picture.copy(), batch, row, guesses[row], names, grid)
        if isinstance(mlm, MaskedLanguageModelling):
            axes[row, 1].set_xlabel(wrapped(_restored(mlm, masked.text[row], batch, row, names)), fontsize=8)
    return [Picture("pretraining", figure)]


def _draw_sample(axes: Axes, picture: np.ndarray, batch: PretrainBatch, row: int) -> None:
    axes.imshow(picture)
    valid, mentioned = batch.box_valid[row], batch.box_mentioned[row]
    draw_boxes(axes, batch.boxes[row][valid & ~mentioned], picture.shape[:2], "white")
    draw_boxes(axes, batch.boxes[row][valid & mentioned], picture.shape[:2], "lime")
    axes.set_title(wrapped(batch.texts[row]), fontsize=8)


def _draw_hidden(
    axes: Axes,
    picture: np.ndarray,
    batch: PretrainBatch,
    row: int,
    guesses: Tensor,
    names: Names,
    grid: tuple[int, int],
) -> None:
    drawn = batch.hidden_classes[row] >= 0
    covered = box_patches(batch.hidden_boxes[row], grid)[drawn].any(0).reshape(grid)
    scale = (picture.shape[0] // grid[0], picture.shape[1] // grid[1])
    picture[np.kron(covered.cpu().numpy(), np.ones(scale)).astype(bool)] = 0.5
    axes.imshow(picture)
    told = [
        f"{names.of_class(guess)} ({'right' if guess == truth else 'is ' + names.of_class(truth)})"
        for guess, truth in zip(guesses[drawn].tolist(), batch.hidden_classes[row][drawn].tolist(), strict=True)
    ]
    axes.set_title(wrapped("MPC: " + ("; ".join(told) or "no box drawn")), fontsize=8)


def _restored(mlm: MaskedLanguageModelling, states: Tensor, batch: PretrainBatch, row: int, names: Names) -> str:
    where = batch.mlm_targets[row] != IGNORED
    guesses = mlm.logits(states[where]).argmax(-1).tolist()
    pairs = zip(guesses, batch.mlm_targets[row][where].tolist(), strict=True)
    told = [f"{names.decode([g])}{'' if g == t else f' (was {names.decode([t])})'}" for g, t in pairs]
    return "MLM: " + (", ".join(told) or "nothing masked")
