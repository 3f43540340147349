"""A guard before Gradio: requests are small, and none makes this machine fetch an address that its sender names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SCHEMES = ("http://", "https://")
UPLOAD = "/gradio_api/upload"  # files, which name nothing to fetch
LARGEST = 1_000_000  # bytes of any other request: texts, boxes and the names of uploads
TOO_LARGE = f"A request has at most {LARGEST:,} bytes; files are uploaded."
REFUSED = "This page fetches no addresses: upload the file."


class NoFetching:
    """ASGI layer that refuses addresses in the place of files, and large requests before they are read to their end.

    Gradio 6 downloads, without a limit, a file of any field whose path is an address, and passes on what
    ``/gradio_api/file=ADDRESS`` names.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request with the status 403 or 413, or hand it on."""
        if scope["type"] != "http" or scope["path"] == UPLOAD:
            await self.app(scope, receive, send)
            return
        body = b""
        try:
            async for piece in Request(scope, receive).stream():
                body += piece
                if len(body) > LARGEST:
                    await JSONResponse({"detail": TOO_LARGE}, 413)(scope, receive, send)
                    return
        except ClientDisconnect:
            return
        if any(scheme in scope["path"] for scheme in SCHEMES) or names_address(body):
            await JSONResponse({"detail": REFUSED}, 403)(scope, receive, send)
            return
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)


def names_address(body: bytes) -> bool:
    """Say whether JSON holds a file whose path is an address; what is no JSON holds none."""
    try:
        waiting = [json.loads(body)]
    except RecursionError:  # nested more deeply than any request of the page
        return True
    except ValueError:
        return False
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            path = found.get("path")
            if isinstance(path, str) and path.startswith(SCHEMES):
                return True
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
    return False
