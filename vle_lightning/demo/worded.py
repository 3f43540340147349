"""The language model of the tab Ask: its reply streams into the page, beside VLE's own answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import gradio as gr

from vle_lightning.demo.limits import read_picture, read_text
from vle_lightning.demo.page import Answer, Desk, Outcome, attempt, command, excuse, sentence, sign, write_outcome
from vle_lightning.inference.llm import LLMReply

BUTTON = "Ask the language model"
HOW = (
    "A language model can word the answer: start the demo with `--llm`, the address of a server of OpenAI's protocol, "
    "and `--llm_model`, a model there."
)
WAITING = "Waiting for the language model."
UNKNOWN = "ADDRESS"  # of the server, for visitors of other machines


class Fields(NamedTuple):
    """The fields of a reply."""

    reply: gr.Textbox
    verdict: gr.Markdown
    sent: gr.Textbox


def reply_fields() -> Fields:
    """Make the fields of a reply; it is shown as plain text, so that none can make the page load anything."""
    reply = gr.Textbox(label="Reply of the language model", lines=2, interactive=False)
    verdict = gr.Markdown("", elem_classes="told", container=False)
    with gr.Accordion("What was sent to the language model", open=False):
        sent = gr.Textbox(label="Prompt", lines=4, max_lines=24, interactive=False)
    return Fields(reply, verdict, sent)


def connect_reply(
    button: gr.Button,
    ask: Callable[..., Answer],
    inputs: list[gr.Component],
    shown: list[gr.Component],
    fields: Fields,
    outcome: Outcome,
    desk: Desk,
) -> None:
    """Let the button ask VLE, and then the language model.

    Args:
        button: to press.
        ask: makes VLE's answer of the inputs' values.
        inputs: fields of model, picture and question.
        shown: fields of VLE's answers and of where it looked.
        fields: of the reply.
        outcome: the fields below a result.
        desk: of the page; has a language model.
    """
    gr.on(
        [button.click],
        partial(word, desk, ask),
        inputs,
        [*shown, *fields, *outcome],
        api_name="ask_language_model",
        concurrency_limit=desk.limits.together,
        show_progress="minimal",
    )


def word(
    desk: Desk, ask: Callable[..., Answer], name: str, picture: str | None, question: str
) -> Iterator[tuple[object, ...]]:
    """Yield the values of the page's fields as the reply arrives; what goes wrong becomes a sentence.

    Yields:
        VLE's answers, where it looked, the reply so far, what is made of it, what was sent, then those of `Outcome`.
    """
    start, same = time.perf_counter(), gr.skip()
    begun = attempt(lambda: begin(desk, ask, name, picture, question))
    if isinstance(begun, str):
        yield None, None, "", begun, "", "", "", ""
        return
    answer, reply = begun
    if answer.picture is not None:
        sign(answer.picture, answer.command)
    yield answer.bars[0], answer.picture, "", WAITING, reply.prompt, "", "", ""
    try:
        for _ in reply:
            yield same, same, reply.text, same, same, same, same, same
    except Exception as error:  # as in `attempt`
        yield same, same, same, excuse(error), same, *write_outcome(answer, start)
        return
    worded = replace(answer, result={**reply.result, "attention": answer.result["attention"]})
    yield same, same, reply.text, judge(reply), same, *write_outcome(worded, start)


def begin(
    desk: Desk, ask: Callable[..., Answer], name: str, picture: str | None, question: str
) -> tuple[Answer, LLMReply]:
    """Let VLE answer, and start a reply to its answers.

    Raises:
        UserError: the page has no language model, or the input is wrong.
    """
    assert desk.language_model is not None  # only then is there a button
    answer = ask(name, picture, question)
    asked = read_text(question, "question", desk.limits)
    reply = desk.language_model.reply(read_picture(picture, desk.limits), asked, answer.result["answers"])
    shell = command("ask", desk.examples.locate(picture), asked, *options_of(desk), model=answer.model)
    return replace(answer, command=shell), reply


def options_of(desk: Desk) -> list[str]:
    """Return the options that name the language model in a command.

    The server's address is told on a page for this machine alone: others need not know what runs in this network.
    """
    model = desk.language_model
    assert model is not None
    address = model.chat.address if desk.folders else UNKNOWN
    options = ["--llm", address, "--llm_model", model.chat.model, "--llm_timeout", f"{model.chat.timeout:g}"]
    return options if model.captioner is None else [*options, "--captioner", model.captioner.name]


def judge(reply: LLMReply) -> str:
    """Say whether the reply is the answer, or why VLE's own answer stands."""
    result = reply.result
    if result["reason"] is None:
        return "The reply gives one of VLE's answers, so it is the answer."
    return f"**VLE's own answer stands: {result['answer']}.** {sentence(str(result['reason']))}"
