"""The tab Find: a phrase, and the patches of the picture that show what it mentions (PBC)."""

from __future__ import annotations

import json
from functools import partial
from typing import NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from datamodules.transforms import View
from vle_lightning.demo.limits import read_picture, read_text
from vle_lightning.demo.page import (
    Answer,
    Desk,
    attempt,
    command,
    connect,
    missing_note,
    model_field,
    outcome_fields,
    picture_field,
    shown_field,
    sign,
)
from vle_lightning.demo.show import heated, readable
from vle_lightning.inference.kinds import DRAWN
from vle_lightning.inference.pictures import OPACITY, stretch


class Found(NamedTuple):
    """What a heat map is drawn from, again for each strength."""

    picture: Image.Image  # at the size of the page, since each session keeps one for an hour
    probabilities: list[list[float]]
    heatmap: list[list[float]]
    view: View
    asked: tuple[str, str, str]  # name of the model, place of the picture, phrase


def find(
    desk: Desk, model: str, picture: str | None, phrase: str, strength: float | None = None, draw: str = DRAWN[0]
) -> Answer:
    """Find what a phrase mentions."""
    used, text = desk.models.find(model), read_text(phrase, "phrase", desk.limits)
    image = read_picture(picture, desk.limits)
    result = used.answer("pbc", image=image, text=text)
    view = used.pipeline("pbc").processor.view(image.size)
    asked = (model, desk.examples.locate(picture), text)
    kept = Found(readable(image), result["probabilities"], result["heatmap"], view, asked)
    return Answer(used, result, shell_of(desk, kept, strength, draw), (), redraw(kept, strength, draw), kept)


def shell_of(desk: Desk, found: Found, strength: float | None, draw: str) -> str:
    """Write the command that draws a heat map at a strength."""
    model, place, text = found.asked
    options = ("--draw", draw, "--opacity", f"{opacity_of(strength):g}", "--out", "heat.png")
    return command("heatmap", place, text, *options, model=desk.models.find(model))


def opacity_of(strength: float | None) -> float:
    """Return the opacity that the slider means; None where a visitor has emptied its field."""
    return OPACITY if strength is None else min(max(strength, 0.0), 1.0)


def redraw(found: Found, strength: float | None, draw: str) -> Image.Image:
    """Draw the heat of an earlier answer at another strength; the model is not asked again."""
    heat = found.probabilities if draw == DRAWN[0] else stretch(np.asarray(found.heatmap, np.float32)).tolist()
    return heated(found.picture, heat, found.view, opacity_of(strength))


def redrawn(
    desk: Desk, found: Found | None, strength: float | None, draw: str, result: str
) -> tuple[object, object, object, object]:
    """Return the heat map at another strength, the page's sentence (of a failure alone), the command and the JSON."""
    if found is None:
        return (gr.skip(),) * 4
    made = attempt(lambda: (redraw(found, strength, draw), shell_of(desk, found, strength, draw), json.loads(result)))
    if isinstance(made, str):
        return None, made, gr.skip(), gr.skip()
    picture, shell, facts = made
    sign(picture, shell)
    return picture, gr.skip(), shell, json.dumps({**facts, "command": shell}, indent=1, ensure_ascii=False)


def build(desk: Desk) -> None:
    """Lay out the tab."""
    names = desk.models.serving("pbc")
    if not names:
        return missing_note(desk, "pbc")
    kept = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column():
            picture = picture_field()
            phrase = gr.Textbox(label="Phrase", placeholder="the dog on the left")
            model = model_field(names)
            button = gr.Button("Find", variant="primary")
            rows = [[scene.picture, scene.captions[0]] for scene in desk.examples.scenes if scene.captions]
            if rows:
                gr.Examples(rows, [picture, phrase], label="Examples of the toy world")
        with gr.Column():
            drawn = shown_field("What the phrase mentions", height=400)
            strength = gr.Slider(0, 1, value=OPACITY, step=0.05, label="Strength of the heat map")
            draw = gr.Radio(
                [("Probability of each patch", DRAWN[0]), ("Relative heat, as published", DRAWN[1])],
                value=DRAWN[0],
                label="What is drawn",
            )
            outcome = outcome_fields()
    connect(
        [button.click, phrase.submit],
        partial(find, desk),
        lambda answer: (answer.picture, answer.kept),
        [model, picture, phrase, strength, draw],
        [drawn, kept],
        outcome,
        desk,
        "find",
    )
    gr.on(
        [strength.release, draw.change],
        partial(redrawn, desk),
        [kept, strength, draw, outcome.result],
        [drawn, *outcome],
        show_progress="hidden",
        api_visibility="private",
    )
    return None
