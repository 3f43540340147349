"""The tab Reason: VCR's questions about boxes, from the question to an answer, and from both to a rationale."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

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
)
from vle_lightning.demo.show import boxed, readable
from vle_lightning.demo.tagged import CHOICES, Objects, build_annotation, write_tagged
from vle_lightning.errors import UserError
from vle_lightning.inference.pictures import open_picture

NAMES = ("question", *(f"answer {n + 1}" for n in range(CHOICES)), *(f"rationale {n + 1}" for n in range(CHOICES)))
ANSWERS = slice(1, 1 + CHOICES)
TAGS, DRAWS = "writes the tag of the box", "draws a box: one corner, then the opposite one"
FILE = "annotation.json"


def choose_answer(desk: Desk, model: str, picture: str | None, objects: Objects, *texts: str) -> Answer:
    """Q->A: choose among four answers."""
    read = read_texts(desk, texts[: ANSWERS.stop])
    return choose(desk, model, picture, build_annotation(objects, read[0], read[1:]), read[1:], "q2a")


def choose_rationale(
    desk: Desk, model: str, picture: str | None, objects: Objects, given: str | None, *texts: str
) -> Answer:
    """QA->R: choose among four rationales of an answer."""
    if given not in NAMES[ANSWERS]:
        raise UserError("No answer is chosen: choose one with Q->A, or by hand.")
    read = read_texts(desk, texts)
    answers, rationales = read[ANSWERS], read[ANSWERS.stop :]
    annotation = build_annotation(objects, read[0], answers, rationales, NAMES[ANSWERS].index(given))
    return choose(desk, model, picture, annotation, rationales, "qa2r")


def choose(
    desk: Desk, model: str, picture: str | None, annotation: dict[str, Any], choices: Sequence[str], task: str
) -> Answer:
    """Ask a VCR model for the best of four choices."""
    found, image = desk.models.find(model), read_picture(picture, desk.limits)
    result = found.answer(f"vcr-{task}", image=image, annotation=annotation)
    shell = command("vcr", desk.examples.locate(picture), FILE, "--task", task, model=found)
    bars = {
        f"{place + 1}. {text}": score for place, (text, score) in enumerate(zip(choices, result["score"], strict=True))
    }
    drawn = boxed(image, annotation["objects"], annotation["boxes"])
    return Answer(found, {**annotation, **result}, shell, (bars,), drawn)


def read_texts(desk: Desk, texts: Sequence[str]) -> list[str]:
    """Return the texts; raises UserError where one is empty or too long."""
    return [read_text(text, name, desk.limits) for text, name in zip(texts, NAMES, strict=False)]


def load_sample(desk: Desk, name: str) -> tuple[object, ...]:
    """Return picture, objects, the picture with boxes, a message, no answer, and the texts of a sample."""
    loaded = attempt(lambda: read_sample(desk, name))
    return (None, Objects(), None, loaded, None, *[""] * len(NAMES)) if isinstance(loaded, str) else loaded


def read_sample(desk: Desk, name: str) -> tuple[object, ...]:
    """Return what `load_sample` does.

    Raises:
        UserError: there is no such sample, or its picture cannot be read.
    """
    sample = next((example for example in desk.examples.vcr if example.name == name), None)
    if sample is None:
        raise UserError("There is no such sample: choose one of the list.")
    found = sample.annotation
    names = tuple(found["objects"])
    boxes = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in sample.boxes)
    texts = [found["question"], *found["answer_choices"], *found["rationale_choices"]]
    drawn = boxed(open_picture(sample.picture).convert("RGB"), names, boxes)
    return (sample.picture, Objects(names, boxes), drawn, "", None, *map(write_tagged, texts))


def show_upload(desk: Desk, picture: str | None) -> tuple[object, ...]:
    """Return an own picture to draw boxes on, without objects."""
    if picture is None:
        return Objects(), None, ""
    shown = attempt(lambda: readable(read_picture(picture, desk.limits)))
    return (Objects(), None, shown) if isinstance(shown, str) else (Objects(), shown, "")


def click(
    desk: Desk,
    event: gr.SelectData,
    picture: str | None,
    objects: Objects,
    effect: str,
    name: str,
    target: str,
    *texts: str,
) -> tuple[object, ...]:
    """Write the tag of the clicked box into a text, or draw a box; returns objects, picture, message and texts."""
    written = list(texts)

    def act() -> tuple[Objects, Image.Image]:
        image = read_picture(picture, desk.limits)
        shown, (x, y) = readable(image), event.index
        x, y = x * image.width / shown.width, y * image.height / shown.height
        changed = objects
        if effect == DRAWS:
            changed = objects.with_corner(x, y, name, desk.limits)
        elif (number := objects.at(x, y)) is None:
            raise UserError("There is no box here: click inside of one.")
        else:
            place = NAMES.index(target)
            written[place] = f"{written[place].rstrip()} [{number}]".lstrip()
        return changed, boxed(image, changed.names, changed.boxes, changed.corner)

    done = attempt(act)
    if isinstance(done, str):
        return (objects, gr.skip(), done, *written)
    return (*done, "", *written)


def remove_last(desk: Desk, picture: str | None, objects: Objects) -> tuple[object, ...]:
    """Remove the last box; returns objects, picture and message."""
    fewer = objects.without_last()
    shown = attempt(lambda: boxed(read_picture(picture, desk.limits), fewer.names, fewer.boxes, fewer.corner))
    return (objects, None, shown) if isinstance(shown, str) else (fewer, shown, "")


def build(desk: Desk) -> None:
    """Lay out the tab."""
    kinds = {kind: desk.models.serving(kind) for kind in ("vcr-q2a", "vcr-qa2r")}
    if not any(kinds.values()):
        for kind in kinds:
            missing_note(desk, kind)
        return
    objects = gr.State(Objects(), time_to_live=3600)
    with gr.Row():
        with gr.Column():
            picture = picture_field("Picture of your own")
            samples = [example.name for example in desk.examples.vcr]
            sample = gr.Dropdown(samples, value=None, label="Or a sample of the toy world", visible=bool(samples))
            gr.Markdown("Boxes (click here):", elem_classes="hint")
            drawn = gr.Image(show_label=False, format="png", interactive=False, height=420, elem_id="boxes", buttons=[])
            noted = gr.Markdown("", elem_classes="told", container=False)
            effect = gr.Radio([TAGS, DRAWS], value=TAGS, label="A click")
            target = gr.Dropdown(list(NAMES), value=NAMES[0], label="Tags go into (or click the text first)")
            with gr.Row():
                name = gr.Textbox("person", label="Class of the next box", scale=2)
                remove = gr.Button("Remove the last box", size="sm", scale=1)
        with gr.Column():
            texts = [gr.Textbox(label=NAMES[0].capitalize(), placeholder="what is [0] doing near [1] ?")]
            texts += [gr.Textbox(label=text.capitalize(), max_lines=2) for text in NAMES[ANSWERS]]
            answers = _task(desk, kinds, "vcr-q2a", "Q->A: choose the answer")
            given = gr.Radio(list(NAMES[ANSWERS]), label="Answer that is to be explained")
            texts += [gr.Textbox(label=text.capitalize(), max_lines=2) for text in NAMES[ANSWERS.stop :]]
            rationales = _task(desk, kinds, "vcr-qa2r", "QA->R: choose the rationale")
    for text, called in zip(texts, NAMES, strict=True):
        text.focus(lambda called=called: called, None, target, show_progress="hidden", api_visibility="private")
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    sample.input(partial(load_sample, desk), sample, [picture, objects, drawn, noted, given, *texts], **quiet)
    gr.on(
        [picture.upload, picture.input, picture.clear],
        partial(show_upload, desk),
        picture,
        [objects, drawn, noted],
        **quiet,
    )

    def clicked(event: gr.SelectData, *values: Any) -> tuple[object, ...]:  # noqa: ANN401 (a value of each field)
        return click(desk, event, *values)

    drawn.select(clicked, [picture, objects, effect, name, target, *texts], [objects, drawn, noted, *texts], **quiet)
    remove.click(partial(remove_last, desk), [picture, objects], [objects, drawn, noted], **quiet)
    if answers is not None:
        model, button, label, outcome = answers
        connect(
            [button.click],
            partial(choose_answer, desk),
            lambda answer: (answer.bars[0], NAMES[1 + answer.result["prediction"]]),
            [model, picture, objects, *texts[: ANSWERS.stop]],
            [label, given],
            outcome,
            desk,
            "vcr_q2a",
        )
    if rationales is not None:
        model, button, label, outcome = rationales
        connect(
            [button.click],
            partial(choose_rationale, desk),
            lambda answer: (answer.bars[0],),
            [model, picture, objects, given, *texts],
            [label],
            outcome,
            desk,
            "vcr_qa2r",
        )


def _task(desk: Desk, kinds: dict[str, list[str]], kind: str, told: str) -> Any:  # noqa: ANN401 (four fields)
    if not kinds[kind]:
        return missing_note(desk, kind)
    model = model_field(kinds[kind])
    button = gr.Button(told, variant="primary")
    label = gr.Label(label=told, num_top_classes=CHOICES, show_heading=False)
    return model, button, label, outcome_fields()
