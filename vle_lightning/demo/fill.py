"""The tab Fill in: a text with [MASK]s about a picture, and the words that belong there (MLM)."""

from __future__ import annotations

from functools import partial

import gradio as gr

from vle_lightning.demo.limits import read_picture, read_text
from vle_lightning.demo.page import (
    Answer,
    Bars,
    Desk,
    command,
    connect,
    missing_note,
    model_field,
    outcome_fields,
    picture_field,
)
from vle_lightning.demo.show import readable
from vle_lightning.errors import UserError
from vle_lightning.inference.kinds import MASK

MOST = 4  # [MASK]s that the page shows


def fill(desk: Desk, model: str, picture: str | None, text: str) -> Answer:
    """Restore the masked words of a text."""
    found, masked = desk.models.find(model), read_text(text, "text", desk.limits)
    image = read_picture(picture, desk.limits)
    mask = str(found.pipeline("mlm").processor.tokenizer.mask_token)
    masked = masked.replace(MASK, mask)
    if masked.count(mask) > MOST:
        raise UserError(
            f"The text has {masked.count(mask)} {mask}s; this page takes up to {MOST}: write some words out."
        )
    words = found.answer("mlm", image=image, text=masked)
    bars: list[Bars] = []
    for best in words:
        bars.append({row["word"]: row["score"] for row in best})
        masked = masked.replace(mask, best[0]["word"], 1)
    shell = command("fill", desk.examples.locate(picture), read_text(text, "text", desk.limits), model=found)
    return Answer(found, {"filled": masked, "words": words}, shell, tuple(bars), readable(image))


def show(answer: Answer) -> tuple[object, ...]:
    """Return the filled text, and the words of each mask; fields without a mask are hidden."""
    filled = answer.result["filled"]
    shown = [gr.update(value=bars, visible=True) for bars in answer.bars]
    return (filled, *shown, *[gr.update(value=None, visible=False)] * (MOST - len(shown)))


def build(desk: Desk) -> None:
    """Lay out the tab."""
    names = desk.models.serving("mlm")
    if not names:
        return missing_note(desk, "mlm")
    with gr.Row():
        with gr.Column():
            picture = picture_field()
            text = gr.Textbox(label=f"Text with {MASK} for each missing word", placeholder="two [MASK] on a [MASK]")
            model = model_field(names)
            button = gr.Button("Fill in", variant="primary")
            rows = [[scene.picture, masked(scene.captions[0])] for scene in desk.examples.scenes if scene.captions]
            if rows:
                gr.Examples(rows, [picture, text], label="Examples of the toy world")
        with gr.Column():
            filled = gr.Textbox(label="With the best words", interactive=False)
            words = [
                gr.Label(label=f"{MASK} {number + 1}", num_top_classes=5, visible=number == 0, show_heading=False)
                for number in range(MOST)
            ]
            outcome = outcome_fields()
    connect(
        [button.click, text.submit],
        partial(fill, desk),
        show,
        [model, picture, text],
        [filled, *words],
        outcome,
        desk,
        "fill",
    )
    return None


def masked(caption: str) -> str:
    """Mask the second and the third word of a caption, which are a colour and a shape in the toy world."""
    words = caption.split()
    return " ".join(MASK if place in (1, 2) else word for place, word in enumerate(words))
