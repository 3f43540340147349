"""A small server of OpenAI's chat protocol, which answers or fails as a test says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


class ChatStub(ThreadingHTTPServer):
    """Listens on a free port of the loopback; ``requests`` holds the body and key of each request."""

    daemon_threads = True

    def __init__(self, behaviour: str, pieces: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour, self.pieces = behaviour, pieces
        self.requests: list[tuple[dict[str, Any], str]] = []
        self.go = Event()  # lets a reply that "waits" go on
        self.over = Event()  # ends whatever waits

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away; what else fails shows in the reply that does not come."""


class _Handler(BaseHTTPRequestHandler):
    server: ChatStub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((body, self.headers["Authorization"]))
        behaviour = self.server.behaviour
        if behaviour == "silent":
            self.server.over.wait(10)
        elif behaviour.isdigit():
            told = json.dumps({"error": {"message": f"no such key: {self.headers['Authorization']}"}}).encode()
            self.send_response(int(behaviour))
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)
        else:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            if behaviour == "aborts":
                self.send_header("Content-Length", "100000")
            self.end_headers()
            self._stream(behaviour)

    def _stream(self, behaviour: str) -> None:
        if behaviour == "drips":  # comments that keep the connection alive, for ever
            while not self.server.over.wait(0.02):
                self.wfile.write(b": wait\n\n")
            return
        if behaviour == "garbage":
            self.wfile.write(b"data: {not json\n\n")
            return
        if behaviour == "error":
            self._send({"error": {"message": f"failed for {self.headers['Authorization']}"}})
            return
        for number, piece in enumerate(self.server.pieces):
            if behaviour == "waits" and number == 1:
                self.server.go.wait(60)
            text = self.headers["Authorization"].removeprefix("Bearer ") if piece == "KEY" else piece
            self._send(_chunk({"content": text}))
            time.sleep(0.01)
        if behaviour == "refuses":
            self._send(_chunk({"refusal": "no"}))
        if behaviour not in ("closes", "aborts"):
            self._send(_chunk({}, "content_filter" if behaviour == "filters" else "stop"))
            self.wfile.write(b"data: [DONE]\n\n")

    def _send(self, content: dict[str, object]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what a test looks for in the output is ours."""


def _chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "stub", "choices": [choice]}


@contextmanager
def serve_chat(behaviour: str = "answers", pieces: tuple[str, ...] = ()) -> Iterator[ChatStub]:
    """Run a server.

    Args:
        behaviour: answers; waits, before the second piece, for ``go``; silent, drips, closes, aborts,
            garbage, error, refuses, filters; or an HTTP status.
        pieces: of the reply; KEY stands for the key of the request.
    """
    with ChatStub(behaviour, pieces) as server:
        thread = Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
