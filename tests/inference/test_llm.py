"""VQA + LLM against small servers on the loopback: what is sent, what comes back, and what stands where it fails."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.inference.chat_server import serve_chat
from tests.inference.conftest import ANSWERS
from vle_lightning.cli import main
from vle_lightning.errors import UserError
from vle_lightning.inference import pipeline
from vle_lightning.inference.chat import ChatServer
from vle_lightning.inference.llm import UNREAD, LLMPipeline, LLMReply, find_fault, write_prompt

Exported = Callable[[str], Path]
SECRET = "sk-abc123-never-to-be-seen"
WAITING = ("silent", "drips")  # servers that a client must give up
QUESTION = "What colour is the car?"
PICTURE = Image.new("RGB", (60, 40), "red")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def load(exported: Exported, address: str, timeout: float = 20.0) -> LLMPipeline:
    found = pipeline("vqa-llm", exported("vqa"), llm=address, llm_model="stub", llm_timeout=timeout)
    assert isinstance(found, LLMPipeline)
    return found


def test_the_prompt_holds_caption_question_and_answers_in_this_order() -> None:
    prompt = write_prompt(
        "What colour\nis it?", [{"answer": "red", "score": 0.75}, {"answer": "two", "score": 0.2}], "a car"
    )
    assert prompt.splitlines()[2:] == [
        "Caption of the picture: a car",
        "Question: What colour is it?",
        "Candidate answers, the most probable first:",
        "1. red (0.750)",
        "2. two (0.200)",
    ]
    assert "Caption" not in write_prompt("why?", [{"answer": "red", "score": 1.0}], None)


def test_a_reply_that_names_an_answer_is_the_answer(exported: Exported) -> None:
    with serve_chat(pieces=("The car", " is ", "RED.")) as server:
        ask = load(exported, server.address)
        result = ask(image=PICTURE, question=QUESTION, top_k=4)
        (body, key) = server.requests[0]
    assert (result["answer"], result["reason"], result["reply"]) == ("The car is RED.", None, "The car is RED.")
    assert {row["answer"] for row in result["answers"]} == set(ANSWERS)
    assert body["messages"] == [{"role": "user", "content": result["prompt"]}]
    assert result["prompt"] == write_prompt(QUESTION, result["answers"], None)
    assert (body["model"], body["stream"], key) == ("stub", True, f"Bearer {SECRET}")


def test_a_reply_streams_and_is_judged_at_its_end(exported: Exported) -> None:
    with serve_chat(pieces=("It is ", "blue", ".")) as server:
        ask = load(exported, server.address)
        reply = ask.stream(image=PICTURE, question=QUESTION, top_k=4)
        assert isinstance(reply, LLMReply)
        assert server.requests == []  # nothing is sent before somebody reads
        pieces = iter(reply)
        assert next(pieces) == "It is "
        assert (reply.text, reply.reason) == ("It is ", UNREAD)
        assert list(pieces) == ["blue", "."]
        assert reply.result["answer"] == "It is blue."
        assert len(ask.stream(image=PICTURE, question=[QUESTION, "Why?"])) == 2


@pytest.mark.parametrize("proxy", ["socks5://user:password@127.0.0.1:9", "other://user:password@127.0.0.1:9"])
def test_a_client_that_does_not_start_leaves_vles_answer(
    proxy: str, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = load(exported, "http://example.org/v1")
    monkeypatch.setitem(sys.modules, "socksio", None)  # not installed
    monkeypatch.setenv("ALL_PROXY", proxy)
    result = ask(image=PICTURE, question=QUESTION)
    assert result["answer"] == result["answers"][0]["answer"]
    assert "does not start" in result["reason"]
    assert "password" not in result["reason"]


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), 1e9])
def test_a_time_that_cannot_be_waited_is_refused(timeout: float) -> None:
    with pytest.raises(UserError, match="llm_timeout is .*; give the seconds that a reply may take, up to 86400"):
        ChatServer("http://127.0.0.1:9/v1", "stub", timeout)


def test_a_reader_that_goes_away_leaves_vles_answer(exported: Exported) -> None:
    with serve_chat(pieces=("It is ", "blue", ".")) as server:
        reply = load(exported, server.address).stream(image=PICTURE, question=QUESTION)
        pieces = iter(reply)
        next(pieces)
        pieces.close()
        assert (reply.result["reason"], reply.result["answer"]) == (UNREAD, reply.answers[0]["answer"])


@pytest.mark.parametrize(
    ("behaviour", "pieces", "reason"),
    [
        ("silent", (), "time-out"),
        ("drips", (), "time-out: no whole reply within 0.3 seconds"),
        ("500", (), "HTTP 500"),
        ("401", (), "HTTP 401"),
        ("404", (), "HTTP 404"),
        ("answers", (), "an empty reply"),
        ("closes", (), "an empty reply"),
        ("answers", (" \n",), "an empty reply"),
        ("closes", ("It is red",), "ends in the middle"),
        ("aborts", ("It is red",), "closed the connection in the middle"),
        ("garbage", (), "not of OpenAI's protocol"),
        ("error", (), "reported an error"),
        ("refuses", (), "refused to answer"),
        ("filters", ("It is red",), "held back the reply"),
        ("answers", ("Zxq ", "%% 7"), "gives none of VLE's answers"),
        ("answers", ("red " * 300,), "longer than 1000 characters"),
    ],
)
def test_where_the_server_fails_vles_answer_stands_and_the_key_is_nowhere(
    behaviour: str,
    pieces: tuple[str, ...],
    reason: str,
    exported: Exported,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    with serve_chat(behaviour, pieces) as server:
        ask = load(exported, server.address, 0.3 if behaviour in WAITING else 20.0)
        result = ask(image=PICTURE, question=QUESTION)
        assert len(server.requests) == 1  # nothing is tried again: VLE's answer is there
    assert reason in str(result["reason"])
    assert result["answer"] == result["answers"][0]["answer"]
    told = capsys.readouterr()
    assert caplog.records  # the client does log
    assert SECRET not in caplog.text + told.out + told.err + json.dumps(result) + repr(ask.settings) + repr(vars(ask))


def test_no_server_leaves_vles_answer(exported: Exported) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    result = load(exported, address)(image=PICTURE, question=QUESTION)
    assert (result["reason"], result["reply"]) == ("no server can be reached", "")
    assert result["answer"] == result["answers"][0]["answer"]


@pytest.mark.parametrize("pieces", [("red ", "KEY"), ("red " + SECRET[:9], SECRET[9:] + " is red")])
def test_a_key_that_a_server_sends_back_is_hidden(exported: Exported, pieces: tuple[str, ...]) -> None:
    with serve_chat(pieces=pieces) as server:
        result = load(exported, server.address)(image=PICTURE, question=QUESTION, top_k=4)
    assert SECRET not in json.dumps(result)
    assert "red [key]" in str(result["reply"])


def test_the_key_is_not_held_by_what_could_be_saved(exported: Exported) -> None:
    with serve_chat(pieces=("red",)) as server:
        ask = load(exported, server.address)
        ask(image=PICTURE, question=QUESTION)
        assert SECRET.encode() not in pickle.dumps(ask.language_model)
        assert all(SECRET not in str(value) for value in vars(ask.language_model.chat).values())


def test_without_a_key_a_server_that_asks_for_none_answers(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with serve_chat(pieces=("none is red",)) as server:
        assert load(exported, server.address)(image=PICTURE, question=QUESTION, top_k=4)["answer"] == "none is red"
        assert server.requests[0][1] == "Bearer none"


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("No, it is not.", False),
        ("no", False),
        ("I have no idea.", True),
        ("There is no dog.", True),
        ("There are Two dogs!", False),
        ("It is not blue.", True),
        ("It isn't a dark blue.", True),
        ("It is not blue, but red.", False),
        ("I do not know; perhaps blue.", False),
        ("New\nYork, I think", False),
        ("The T-shirt is blue.", False),
        ("It can\u2019t be blue.", True),
        ("The answer is no.", False),
        ("Answer: no", False),
        ("It's no dog.", False),
        ("No doubt, a cat.", True),
        ("Not only red", False),
        ("Without a doubt red", False),
        ("The picture shows no cat but red", False),
        ("It is hardly red", True),
        ("a new place, not York", True),
        ("nothing", True),  # contains "no", not as a word
        ("reddish", True),
        ("?!", True),
    ],
)
def test_a_reply_must_give_an_answer(reply: str, fault: bool) -> None:
    assert (find_fault(reply, ["red", "blue", "two", "no", "New York", "!"]) is not None) is fault


def test_the_command_prints_the_reply_and_the_reason(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PICTURE.save(tmp_path / "car.png")
    command = ["ask", str(tmp_path / "car.png"), QUESTION, "--model", str(exported("vqa")), "--llm_model", "stub"]
    with serve_chat("500") as server:
        assert main([*command, "--llm", server.address]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["answer"] == result["answers"][0]["answer"]
    assert result["reason"] == "the server refused the request with HTTP 500"
    assert main(command) == 2
    assert "llm and llm_model are missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "llm and llm_model are missing"),
        ({"llm": "http://localhost/v1"}, "llm and llm_model are missing"),
        ({"llm": "localhost:8000", "llm_model": "m"}, "llm is no address"),
        ({"llm": "http://localhost:port/v1", "llm_model": "m"}, "llm is no address"),
        ({"llm": f"http://me:{SECRET}@localhost/v1", "llm_model": "m"}, "no user, password or key"),
        ({"llm": f"http://localhost/v1?key={SECRET}", "llm_model": "m"}, "no user, password or key"),
        ({"llm": "http://localhost/v1", "llm_model": "m", "llm_timeout": 0.0}, "llm_timeout is 0.0"),
        pytest.param(  # transformers asks the hub for it, and again
            {"llm": "http://localhost/v1", "llm_model": "m", "captioner": "nowhere/here"},
            "captioner: nowhere/here",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_wrong_options_are_named(exported: Exported, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        pipeline("vqa-llm", exported("vqa"), **options)  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)


def test_other_pipelines_take_no_language_model(exported: Exported) -> None:
    with pytest.raises(UserError, match="options of the pipeline vqa-llm; vqa takes none"):
        pipeline("vqa", exported("vqa"), llm="http://localhost/v1", llm_model="m")


def test_without_the_client_the_extra_is_named(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"vqa-llm needs the package openai.*'vle-lightning\[demo\]'"):
        pipeline("vqa-llm", exported("vqa"), llm="http://localhost/v1", llm_model="m")
