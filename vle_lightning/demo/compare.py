"""The tab Compare: two checkpoints side by side on one input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gradio as gr

from vle_lightning.demo.ask import ask
from vle_lightning.demo.fill import fill
from vle_lightning.demo.find import find
from vle_lightning.demo.match import match
from vle_lightning.demo.page import Answer, Desk, connect, outcome_fields, picture_field, shown_field
from vle_lightning.errors import UserError

TASKS: dict[str, tuple[str, Callable[[Desk, str, str | None, str], Answer]]] = {
    "Ask": ("vqa", ask),
    "Find": ("pbc", find),
    "Match": ("itm", match),
    "Fill in": ("mlm", fill),
}


def answer_as(desk: Desk, task: str, model: str, picture: str | None, text: str) -> Answer:
    """Answer a request as the tab of its name does."""
    if task not in TASKS:
        raise UserError(f"There is no task {task}: choose one of {', '.join(TASKS)}.")
    return TASKS[task][1](desk, model, picture, text)


def first_two(desk: Desk) -> tuple[str, list[str]] | None:
    """Return a task that several models can do, with their names; None where there is none."""
    able = ((task, desk.models.serving(kind)) for task, (kind, _) in TASKS.items())
    return next(((task, names) for task, names in able if len(names) > 1), None)


def build(desk: Desk) -> None:
    """Lay out the tab."""
    start = first_two(desk)
    if start is None:
        gr.Markdown(
            "There are no two models with the same head.\n\nName two checkpoints to compare: "
            '`make demo MODEL="checkpoints/pretrain-toy checkpoints/pretrain-toy.1"`.',
            elem_classes="missing",
        )
        return
    task, names = start
    every = list(desk.models.by_name)
    with gr.Row():
        with gr.Column():
            picture = picture_field()
        with gr.Column():
            chosen = gr.Radio(list(TASKS), value=task, label="Task")
            text = gr.Textbox(
                label="Text", lines=3, placeholder="Question, phrase, texts (one a line), or text with [MASK]"
            )
            button = gr.Button("Compare", variant="primary")
            rows = [[scene.picture] for scene in desk.examples.scenes]
            if rows:
                gr.Examples(rows, picture, label="Examples of the toy world")
    with gr.Row():
        for side, name in zip(("left", "right"), names, strict=False):
            with gr.Column():
                model = gr.Dropdown(every, value=name, label=f"Model on the {side}", elem_id=f"model-{side}")
                label = gr.Label(label="Scores", num_top_classes=5, show_heading=False)
                shown = shown_field("Picture of the result")
                outcome = outcome_fields()
            connect(
                [button.click],
                partial(answer_as, desk),
                lambda answer: (answer.bars[0] if answer.bars else None, answer.picture),
                [chosen, model, picture, text],
                [label, shown],
                outcome,
                desk,
                f"compare_{side}",
            )
