"""What all tabs share: the answer to a request, the fields that show it, and how a failure becomes a sentence."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from vle_lightning.demo.examples import Examples
from vle_lightning.demo.limits import Limits
from vle_lightning.demo.models import Model, Models
from vle_lightning.errors import UserError
from vle_lightning.files import finite
from vle_lightning.inference.llm import LanguageModel

LOG = logging.getLogger(__name__)
Bars = Mapping[str, float]  # text -> score


@dataclass(frozen=True)
class Desk:
    """What a request is answered with."""

    models: Models
    limits: Limits
    examples: Examples
    photos: Path | None = None  # folder of pictures to search
    folders: bool = False  # may visitors name other folders of this machine?
    cache: Path | None = None  # folder that keeps the indexes of folders
    language_model: LanguageModel | None = None  # that words answers; visitors cannot choose its server


@dataclass(frozen=True)
class Answer:
    """What came of a request."""

    model: Model
    result: Any  # JSON
    command: str  # that gives the same result
    bars: tuple[Bars, ...] = ()
    picture: Image.Image | None = None
    kept: object = None  # for a later request of the same page


class Outcome(NamedTuple):
    """The fields below a result."""

    told: gr.Markdown
    command: gr.Code
    result: gr.Code


def command(name: str, *arguments: str, model: Model) -> str:
    """Write the shell command that gives a result again."""
    return shlex.join(["python", "-m", "vle_lightning", name, *arguments, *model.options])


def picture_field(label: str = "Picture") -> gr.Image:
    """Make the field for a picture: by upload, from the clipboard or by the camera."""
    field: Any = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard", "webcam"],
        label=label,
        height=320,
        buttons=[],
        elem_classes="given",
    )
    # Gradio decodes an upload before a handler can read our limits, and a broken one ends in a message of its own;
    # a subclass would do, but Gradio writes a .pyi file beside the source of each
    field.preprocess = lambda payload: None if payload is None else payload.path
    assert isinstance(field, gr.Image)
    return field


def shown_field(label: str, height: int = 320) -> gr.Image:
    """Make the field for a picture of a result, which can be saved."""
    return gr.Image(label=label, format="png", interactive=False, height=height, buttons=["download"])


def model_field(names: Sequence[str], label: str = "Model") -> gr.Dropdown:
    """Make the choice among models; hidden where there is none to make."""
    return gr.Dropdown(list(names), value=names[0], label=label, visible=len(names) > 1)


def outcome_fields() -> Outcome:
    """Make the fields below a result."""
    told = gr.Markdown("", elem_classes="told", container=False)
    with gr.Accordion("Reproduce and save", open=False):
        shell = gr.Code(
            label="Command that gives the same result",
            language="shell",
            interactive=False,
            wrap_lines=True,
            lines=1,
            max_lines=6,
        )
        result = gr.Code(label="Result as JSON", language="json", interactive=False, max_lines=16)
    return Outcome(told, shell, result)


def connect(
    triggers: Sequence[Callable[..., Any]],
    answer: Callable[..., Answer],
    show: Callable[[Answer], tuple[object, ...]],
    inputs: Sequence[gr.Component],
    outputs: Sequence[gr.Component],
    outcome: Outcome,
    desk: Desk,
    name: str,
) -> None:
    """Let events ask for an answer and show it.

    Args:
        triggers: events, such as ``button.click``.
        answer: makes an answer of the inputs' values.
        show: gives the value of each output.
        inputs: fields to read.
        outputs: fields to fill; emptied where there is no answer.
        outcome: the fields below them.
        desk: of the page.
        name: of the endpoint in the page's API.
    """
    gr.on(
        list(triggers),
        answering(answer, show, len(outputs)),
        list(inputs),
        [*outputs, *outcome],
        api_name=name,
        concurrency_limit=desk.limits.together,
        show_progress="minimal",
    )


def answering(
    answer: Callable[..., Answer], show: Callable[[Answer], tuple[object, ...]], outputs: int
) -> Callable[..., tuple[object, ...]]:
    """Make a handler that never fails: what goes wrong becomes a sentence in the page."""

    def handle(*values: object) -> tuple[object, ...]:
        start = time.perf_counter()
        found = attempt(lambda: answer(*values))
        if isinstance(found, str):
            return (*[None] * outputs, found, "", "")
        if found.picture is not None:
            sign(found.picture, found.command)
        return (*show(found), *write_outcome(found, start))

    return handle


def sign(picture: Image.Image, shell: str) -> None:
    """Write the command into the picture of an answer, so that a saved PNG says what made it."""
    # the time keeps two results from being one file, which Gradio writes again while a visitor may be reading it
    picture.info |= {"command": shell, "created": str(time.time_ns())}


def write_outcome(answer: Answer, start: float) -> tuple[str, str, str]:
    """Write the fields below a result: who answered, the command, and the result as JSON.

    Args:
        answer: of the request.
        start: of the request, by ``time.perf_counter``.
    """
    seconds = round(time.perf_counter() - start, 4)
    told = f"Answered by **{answer.model.name}** in {seconds:.2f} s on {answer.model.device}."
    return told, answer.command, write_result(answer, seconds)


def write_result(answer: Answer, seconds: float) -> str:
    """Write an answer as JSON, beside the model, the device and the command."""
    facts = {"model": answer.model.source, "device": str(answer.model.device), "seconds": seconds}
    found = answer.result if isinstance(answer.result, dict) else {"result": answer.result}
    return json.dumps({**facts, "command": answer.command, **finite(found)}, indent=1, ensure_ascii=False)


def attempt(compute: Callable[[], Any]) -> Any:  # noqa: ANN401 (what it computes, or a sentence)
    """Return what a function computes, or the sentence for the page where it fails."""
    try:
        return compute()
    except Exception as error:  # one failed request must not end the page
        return excuse(error)


def excuse(error: Exception) -> str:
    """Return the sentence for the page where a request failed; the log has the traceback of an unexpected error."""
    if isinstance(error, UserError):
        return f"**No answer.** {sentence(str(error))}"
    LOG.error("a request of the demo failed", exc_info=error)
    return f"**No answer.** An unexpected {type(error).__name__}; the log of the demo has the details."


def sentence(text: str) -> str:
    """Write a message as a sentence."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def missing_note(desk: Desk, kind: str) -> None:
    """Show that no model serves a tab, and how to get one."""
    gr.Markdown(desk.models.missing(kind), elem_classes="missing")
