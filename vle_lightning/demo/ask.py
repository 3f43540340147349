"""The tab Ask: a question about a picture, five answers, where the model looked, and a language model's wording."""

from __future__ import annotations

from functools import partial

import gradio as gr

from vle_lightning.demo.limits import read_picture, read_text
from vle_lightning.demo.page import (
    Answer,
    Desk,
    command,
    connect,
    missing_note,
    model_field,
    outcome_fields,
    picture_field,
    shown_field,
)
from vle_lightning.demo.show import attended
from vle_lightning.demo.worded import BUTTON, HOW, connect_reply, reply_fields


def ask(desk: Desk, model: str, picture: str | None, question: str) -> Answer:
    """Answer a question about a picture."""
    found, asked = desk.models.find(model), read_text(question, "question", desk.limits)
    image = read_picture(picture, desk.limits)
    result = found.answer("vqa", image=image, question=asked)
    looked = attended(image, result["attention"], found.pipeline("vqa").processor.view(image.size))
    shell = command("ask", desk.examples.locate(picture), asked, "--attention", model=found)
    return Answer(found, result, shell, ({row["answer"]: row["score"] for row in result["answers"]},), looked)


def build(desk: Desk) -> None:
    """Lay out the tab."""
    names = desk.models.serving("vqa")
    if not names:
        return missing_note(desk, "vqa")
    with gr.Row():
        with gr.Column():
            picture = picture_field()
            question = gr.Textbox(label="Question", placeholder="What is on the sofa?")
            model = model_field(names)
            button = gr.Button("Ask", variant="primary")
            if desk.language_model is None:
                gr.Markdown(HOW, elem_classes="hint")
            else:
                second = gr.Button(BUTTON)
            rows = [[scene.picture, scene.questions[0]] for scene in desk.examples.scenes if scene.questions]
            if rows:
                gr.Examples(rows, [picture, question], label="Examples of the toy world")
        with gr.Column():
            answers = gr.Label(label="Answers", num_top_classes=5, show_heading=False)
            reply = () if desk.language_model is None else reply_fields()
            looked = shown_field("Where the model looked")
            gr.Markdown("Attention of the last fusion layer, brightest where it is strongest.", elem_classes="hint")
            outcome = outcome_fields()
    inputs, shown = [model, picture, question], [answers, looked]
    connect(
        [button.click, question.submit],
        partial(ask, desk),
        lambda answer: (answer.bars[0], answer.picture, *[""] * len(reply)),  # a reply to an earlier question goes
        inputs,
        [*shown, *reply],
        outcome,
        desk,
        "ask",
    )
    if reply:
        connect_reply(second, partial(ask, desk), inputs, shown, reply, outcome, desk)
    return None
