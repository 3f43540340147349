"""The button that asks a language model: what the page shows while a reply arrives, and where there is none."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from PIL import Image

from tests.demo.conftest import Run
from tests.inference.chat_server import serve_chat
from tests.inference.conftest import ANSWERS
from vle_lightning.demo.app import build_app
from vle_lightning.demo.ask import ask
from vle_lightning.demo.page import Desk
from vle_lightning.demo.worded import BUTTON, HOW, WAITING, word
from vle_lightning.inference.chat import ChatServer
from vle_lightning.inference.llm import Captioner, LanguageModel

SECRET = "sk-abc123-never-to-be-seen"
QUESTION = "What colour is the car?"


class Described(Captioner):
    """A captioner without a model."""

    def __init__(self) -> None:
        self.name = "captioner/of-tests"

    def __call__(self, picture: Image.Image) -> str:
        return f"a picture of {picture.width} pixels"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def with_server(desk: Desk, address: str, captioner: Captioner | None = None, own: bool = True) -> Desk:
    return replace(desk, language_model=LanguageModel(ChatServer(address, "stub", 20.0), captioner), folders=own)


def values_of(desk: Desk, picture: str | None, question: str = QUESTION) -> list[tuple[object, ...]]:
    return list(word(desk, partial(ask, desk), "vqa", picture, question))


def test_a_reply_streams_beside_vles_answers(desk: Desk, scene: str, run: Run) -> None:
    with serve_chat(pieces=("The car", " is ", "red.")) as server:
        wide = with_server(desk, server.address)
        first, *middle, last = values_of(wide, scene)
        printed = run(str(last[6]))
        sent = [body["messages"][0]["content"] for body, _ in server.requests]
    assert first[0] == ask(desk, "vqa", scene, QUESTION).bars[0]
    assert isinstance(first[1], Image.Image)
    assert first[2:5] == ("", WAITING, sent[0])
    assert [values[2] for values in middle] == ["The car", "The car is ", "The car is red."]
    assert last[3] == "The reply gives one of VLE's answers, so it is the answer."
    assert str(last[5]).startswith("Answered by **vqa** in ")
    result = json.loads(str(last[7]))
    assert (result["answer"], result["reason"], result["prompt"]) == ("The car is red.", None, sent[0])
    assert len(result["attention"]) == 6
    assert (printed["answer"], printed["prompt"]) == (result["answer"], result["prompt"])


def test_vles_answer_stands_where_the_reply_breaks_in_a_way_that_nobody_foresaw(
    desk: Desk, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(chat: ChatServer, prompt: str) -> Iterator[str]:
        yield "The "
        raise ZeroDivisionError

    monkeypatch.setattr(ChatServer, "stream", breaking)
    *_, last = values_of(with_server(desk, "http://127.0.0.1:9/v1"), scene)
    assert last[3] == "**No answer.** An unexpected ZeroDivisionError; the log of the demo has the details."
    assert json.loads(str(last[7]))["answers"] == ask(desk, "vqa", scene, QUESTION).result["answers"]


@pytest.mark.parametrize(
    ("behaviour", "pieces", "reason"),
    [
        ("500", (), "The server refused the request with HTTP 500."),
        ("aborts", ("The car",), "The server closed the connection in the middle."),
        ("answers", ("Zxq",), "The reply gives none of VLE's answers."),
    ],
)
def test_where_the_server_fails_the_page_says_why_and_goes_on(
    behaviour: str, pieces: tuple[str, ...], reason: str, desk: Desk, scene: str
) -> None:
    with serve_chat(behaviour, pieces) as server:
        *_, last = values_of(with_server(desk, server.address), scene)
    result = json.loads(str(last[7]))
    assert result["answer"] == result["answers"][0]["answer"]
    assert last[3] == f"**VLE's own answer stands: {result['answer']}.** {reason}"
    assert last[2] == "".join(pieces)
    assert set(ask(desk, "vqa", scene, QUESTION).bars[0]) <= set(ANSWERS)


def test_wrong_input_is_a_sentence_and_nothing_is_sent(desk: Desk, scene: str) -> None:
    with serve_chat(pieces=("red",)) as server:
        wide = with_server(desk, server.address)
        assert values_of(wide, None)[0][3] == (
            "**No answer.** There is no picture: upload one, paste it, or choose an example."
        )
        (values,) = values_of(wide, scene, "a" * 10_000)
        assert "10,000 characters" in str(values[3])
        assert server.requests == []


def test_a_caption_is_sent_and_its_model_is_in_the_command(desk: Desk, scene: str) -> None:
    with serve_chat(pieces=("red",)) as server:
        *_, last = values_of(with_server(desk, server.address, Described()), scene)
        sent = server.requests[0][0]["messages"][0]["content"]
    assert "Caption of the picture: a picture of 48 pixels" in sent
    assert "--captioner captioner/of-tests" in str(last[6])


def test_the_key_is_nowhere_and_strangers_do_not_read_the_address(
    desk: Desk, scene: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve_chat(pieces=("KEY", " is red")) as server:
        own, shared = (with_server(desk, server.address, own=own) for own in (True, False))
        shown = [repr(values_of(wide, scene)) for wide in (own, shared)]
        pages = [json.dumps(build_app(wide).get_config_file(), default=str) for wide in (own, shared)]
        assert server.requests[0][1] == f"Bearer {SECRET}"
    assert all(SECRET not in text for text in (*shown, *pages))
    assert [server.address in text for text in (*shown, *pages)] == [True, False, False, False]
    assert "--llm ADDRESS" in shown[1]
    assert "chat/completions" in caplog.text  # the client has logged its request
    assert SECRET not in caplog.text


@pytest.mark.parametrize("behaviour", ["401", "error", "garbage", "aborts"])
def test_the_key_is_nowhere_where_the_server_fails(
    behaviour: str, desk: Desk, scene: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve_chat(behaviour, ("KEY",)) as server:
        shown = repr(values_of(with_server(desk, server.address), scene))
        assert server.requests[0][1] == f"Bearer {SECRET}"
    assert "VLE's own answer stands" in shown
    assert SECRET not in shown
    assert SECRET not in caplog.text


def test_without_a_language_model_there_is_no_button_but_how_to_get_one(desk: Desk) -> None:
    plain, wide = (texts_of(shown) for shown in (desk, with_server(desk, "http://127.0.0.1:9/v1")))
    assert (BUTTON in plain, HOW in plain) == (False, True)
    assert (BUTTON in wide, HOW in wide) == (True, False)


def texts_of(desk: Desk) -> list[object]:
    return [component["props"].get("value") for component in build_app(desk).get_config_file()["components"]]
