"""The served page under load and under bad input; after each, it still answers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from tests.demo.test_limits import large_png
from vle_lightning.demo.guard import REFUSED, TOO_LARGE
from vle_lightning.demo.page import Desk

pytestmark = pytest.mark.slow
gradio_client = pytest.importorskip("gradio_client", reason="Gradio is not installed")
Client = Any  # gradio_client.Client; the package has no types
LOG = logging.getLogger(__name__)
QUESTION = "What colour is the car?"
TOLD = 2  # place of the sentence among the results of the tab Ask


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    opened = gradio_client.Client(address, verbose=False)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def still_answers(client: Client, desk: Desk) -> Iterator[None]:
    yield
    assert ask(client, desk.examples.scenes[1].picture).startswith("Answered by")


def ask(client: Client, picture: str | Path, question: str = QUESTION) -> str:
    given = gradio_client.handle_file(str(picture))
    return str(client.predict("vqa", given, question, api_name="/ask")[TOLD])


def test_twenty_requests_at_once_are_all_answered_in_fewer_batches(client: Client, desk: Desk) -> None:
    sizes = desk.models.find("vqa").batchers["vqa"].sizes
    sizes.clear()
    start = time.perf_counter()
    picture = gradio_client.handle_file(desk.examples.scenes[0].picture)
    jobs = [client.submit("vqa", picture, QUESTION, api_name="/ask") for _ in range(20)]
    told = [str(job.result(timeout=300)[TOLD]) for job in jobs]
    LOG.info("20 requests in %.1f s, in batches of %s", time.perf_counter() - start, list(sizes))
    assert [line[:11] for line in told] == ["Answered by"] * 20
    assert sum(sizes) == 20


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(50), b"GIF89a" + bytes(9)])
def test_broken_files_are_a_sentence(client: Client, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    told = ask(client, tmp_path / "broken.png")
    assert told.startswith("**No answer.** The picture of ")
    assert str(tmp_path) not in told


def test_half_a_picture_is_a_sentence(client: Client, tmp_path: Path) -> None:
    Image.effect_noise((200, 200), 50).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    assert "cannot be read" in ask(client, tmp_path / "half.jpg")


def test_a_picture_of_100_megapixels_is_refused_before_it_is_decoded(client: Client, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(large_png(10_000, 10_000))
    start = time.perf_counter()
    assert "more than 50,000,000 pixels: 10000 x 10000" in ask(client, tmp_path / "large.png")
    LOG.info("100 megapixels refused in %.2f s", time.perf_counter() - start)


def test_a_text_of_10_000_characters_is_refused(client: Client, scene: str) -> None:
    told = ask(client, scene, "a " * 5_000 + "?")
    assert "The question has 10,001 characters; this page takes up to 500" in told


def test_a_folder_without_pictures_is_a_sentence(client: Client, tmp_path: Path) -> None:
    assert "holds no picture" in str(client.predict("dual", str(tmp_path), api_name="/index"))


def test_an_upload_over_the_limit_is_refused(address: str) -> None:
    files = {"files": ("large.png", bytes(21 * 10**6))}
    assert httpx.post(f"{address}/gradio_api/upload", files=files, timeout=60).status_code == 413


def test_files_of_the_server_cannot_be_named_as_pictures(address: str, tmp_path: Path) -> None:
    secret = tmp_path.parent / "secret.png"
    Image.new("RGB", (9, 9)).save(secret)
    given = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    assert "event: error" in call(address, ["vqa", given, QUESTION])
    assert httpx.get(f"{address}/gradio_api/file={secret}", timeout=60).status_code == 403


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """The address of a picture on another server, which Gradio may call, and what that server is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(large_png(9, 9))

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    monkeypatch.setattr("safehttpx.is_public_ip", lambda ip: True)  # as if this machine were one of the internet
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
        thread.start()
        yield f"http://localhost:{server.server_port}/picture.png", asked
        server.shutdown()
        thread.join()


def test_a_large_request_is_refused_before_it_is_read_to_its_end(address: str) -> None:
    body = b'{"data": ["vqa", null, [' + b"[]," * 2_000_000 + b"[]]]}"
    answer = httpx.post(f"{address}/gradio_api/call/ask", content=body, timeout=20)
    assert (answer.status_code, answer.json()) == (413, {"detail": TOO_LARGE})
    assert httpx.get(address).status_code == 200


def test_no_request_makes_the_page_fetch_an_address(address: str, elsewhere: tuple[str, list[str]]) -> None:
    place, asked = elsewhere
    file = {"path": place, "meta": {"_type": "gradio.FileData"}}
    for values in (["vqa", file, QUESTION], ["vqa", None, file], ["vqa", None, {"deep": [file]}]):
        assert REFUSED in call(address, values)
    named = {"model": "vqa", "picture": file, "question": QUESTION}
    calls = (("call/v2/ask", named), ("run/ask", {"data": ["vqa", file, QUESTION]}))
    assert [httpx.post(f"{address}/gradio_api/{way}", json=body).status_code for way, body in calls] == [403, 403]
    escaped = json.dumps({"data": ["vqa", file, QUESTION]}).replace("http", "\\u0068ttp")
    assert httpx.post(f"{address}/gradio_api/call/ask", content=escaped).status_code == 403
    for way in ("file=", "file/", "proxy="):
        for named_place in (place, quote(place, safe="")):
            assert httpx.get(f"{address}/gradio_api/{way}{named_place}").status_code == 403
    assert asked == []


def test_results_cannot_be_sent_to_a_hub(address: str) -> None:
    assert httpx.post(f"{address}/gradio_api/run-history/connect", json={}).status_code in (404, 405)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1, None, 2], "Value: 1 is not in the list of choices: ['vqa']"),
        (["none", None, "a"], "Value: none is not in the list of choices: ['vqa']"),
        (["vqa", None, None], "**No answer.**"),
    ],
)
def test_wrong_values_are_a_sentence(values: list[Any], told: str, address: str) -> None:
    assert told in call(address, values)


@pytest.mark.parametrize("values", [[None, None, ["a"]], []])
def test_wrong_types_fail_alone(values: list[Any], address: str) -> None:
    assert "Answered by" not in call(address, values)


def test_clients_that_go_away_hold_nobody_up(address: str, client: Client, scene: str) -> None:
    files = {"files": ("scene.png", Path(scene).read_bytes())}
    (sent,) = httpx.post(f"{address}/gradio_api/upload", files=files, timeout=60).json()
    values = ["vqa", {"path": sent, "meta": {"_type": "gradio.FileData"}}, QUESTION]
    assert "Answered by" in call(address, values)  # so those that leave have asked something
    for _ in range(10):
        event = httpx.post(f"{address}/gradio_api/call/ask", json={"data": values}, timeout=60).json()
        with httpx.stream("GET", f"{address}/gradio_api/call/ask/{event['event_id']}", timeout=60):
            pass  # closed before the answer is read
    start = time.perf_counter()
    assert ask(client, scene).startswith("Answered by")
    assert time.perf_counter() - start < 10


def call(address: str, values: list[Any]) -> str:
    """Send values as they are, and return the whole stream of what comes back."""
    answer = httpx.post(f"{address}/gradio_api/call/ask", json={"data": values}, timeout=60)
    if answer.status_code != 200:
        return answer.text
    return httpx.get(f"{address}/gradio_api/call/ask/{answer.json()['event_id']}", timeout=60).text
