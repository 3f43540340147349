"""The tab Match: several texts, ranked by how well they describe a picture (ITM)."""

from __future__ import annotations

from functools import partial

import gradio as gr

from vle_lightning.demo.limits import read_lines, read_picture
from vle_lightning.demo.page import (
    Answer,
    Desk,
    command,
    connect,
    missing_note,
    model_field,
    outcome_fields,
    picture_field,
)
from vle_lightning.demo.show import readable


def match(desk: Desk, model: str, picture: str | None, texts: str) -> Answer:
    """Rank texts by their probability of describing a picture."""
    found, lines = desk.models.find(model), read_lines(texts, "text", desk.limits)
    image = read_picture(picture, desk.limits)
    results = found.answer_all("itm", [{"image": image, "text": line} for line in lines])
    rows = [{"text": line, **result} for line, result in zip(lines, results, strict=True)]
    ranked = sorted(rows, key=lambda row: -row["score"][1])
    shell = command("match", desk.examples.locate(picture), *lines, model=found)
    return Answer(found, ranked, shell, ({row["text"]: row["score"][1] for row in ranked},), readable(image))


def build(desk: Desk) -> None:
    """Lay out the tab."""
    names = desk.models.serving("itm")
    if not names:
        return missing_note(desk, "itm")
    captions = desk.examples.captions()
    with gr.Row():
        with gr.Column():
            picture = picture_field()
            texts = gr.Textbox(
                "\n".join(captions),
                label="Texts, one a line",
                lines=6,
                max_lines=12,
                placeholder="two dogs on a sofa\na red car",
            )
            model = model_field(names)
            button = gr.Button("Rank the texts", variant="primary")
            if captions:
                rows = [[scene.picture] for scene in desk.examples.scenes]
                gr.Examples(rows, picture, label="Examples of the toy world")
        with gr.Column():
            ranked = gr.Label(
                label="Probability that the text describes the picture",
                num_top_classes=desk.limits.texts,
                show_heading=False,
            )
            outcome = outcome_fields()
    connect(
        [button.click],
        partial(match, desk),
        lambda answer: (answer.bars[0],),
        [model, picture, texts],
        [ranked],
        outcome,
        desk,
        "match",
    )
    return None
