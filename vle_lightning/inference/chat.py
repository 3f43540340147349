"""A client of OpenAI's chat protocol: one prompt out, the reply piece by piece, within a deadline."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vle_lightning.errors import UserError
from vle_lightning.extras import require

if TYPE_CHECKING:
    from openai import OpenAI

KEY = "OPENAI_API_KEY"  # of the environment: the only place that the key is read from
NO_KEY = "none"  # most servers on one's own machine ask for no key, the client does
HIDDEN = "[key]"  # in the place of a key that a server sends back
PATIENCE = 86_400  # seconds: a day; clocks and sockets take no infinite ones
LONGEST = 1000  # characters of a reply: an answer to a question about a picture is a sentence


class ChatError(Exception):
    """There is no whole reply; the message says why, and holds nothing that the server sent."""


@dataclass(frozen=True)
class ChatServer:
    """A server of OpenAI's chat protocol, and the model to use there."""

    address: str  # such as http://localhost:8000/v1
    model: str
    timeout: float = 60.0  # seconds for a whole reply

    def __post_init__(self) -> None:
        """Check the address, and that the client is installed.

        Raises:
            UserError: the address is of another form, or the package openai is missing.
        """
        try:
            parts = urlsplit(self.address)
            fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:  # a port that is no number
            fits = False
        if not fits:
            raise UserError("llm is no address of a server; give its base address, such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(f"llm holds more than a server's address: no user, password or key; the key goes in {KEY}")
        if not 0 < self.timeout <= PATIENCE:
            raise UserError(f"llm_timeout is {self.timeout}; give the seconds that a reply may take, up to {PATIENCE}")
        require("openai", "demo", "the pipeline vqa-llm")

    def stream(self, prompt: str) -> Iterator[str]:
        """Send a prompt, and yield the pieces of the reply as they arrive.

        Args:
            prompt: of one message.

        Raises:
            ChatError: the client does not start, there is no server, no whole reply in time, or an error in its place.
        """
        key, pieces = os.environ.get(KEY) or NO_KEY, SimpleQueue[str | ChatError | None]()
        client = self._connect(key)
        # the client's own time-out is of a single read: a server that sends a byte now and then would never end
        Thread(target=_request, args=(client, self, prompt, pieces), daemon=True).start()
        try:
            yield from _without(key, _until(time.monotonic() + self.timeout, pieces, self.timeout))
        finally:
            client.close()

    def _connect(self, key: str) -> OpenAI:
        from openai import OpenAI

        try:
            return OpenAI(base_url=self.address, api_key=key, timeout=self.timeout, max_retries=0)
        except Exception as error:  # of a proxy's address, which may hold a password: its text is not passed on
            raise ChatError(
                f"the client of OpenAI's protocol does not start ({type(error).__name__}); check the proxies that the "
                "environment names, such as ALL_PROXY"
            ) from error


def _until(deadline: float, pieces: SimpleQueue[str | ChatError | None], timeout: float) -> Iterator[str]:
    """Yield what another thread has read, up to None; an error in the queue is raised."""
    while True:
        try:
            piece = pieces.get(timeout=max(deadline - time.monotonic(), 0))
        except Empty:
            raise ChatError(f"time-out: no whole reply within {timeout:g} seconds") from None
        if piece is None:
            return
        if isinstance(piece, ChatError):
            raise piece
        yield piece


def _request(client: OpenAI, server: ChatServer, prompt: str, pieces: SimpleQueue[str | ChatError | None]) -> None:
    """Read a reply into a queue, which ends with None or with an error."""
    import openai

    reading = False
    try:
        with client.chat.completions.create(
            model=server.model, messages=[{"role": "user", "content": prompt}], stream=True
        ) as chunks:
            reading = True
            _copy(chunks, pieces)
        end: ChatError | None = None
    except ChatError as error:
        end = error
    except openai.APITimeoutError:
        end = ChatError(f"time-out: no answer within {server.timeout:g} seconds")
    except openai.APIStatusError as error:
        end = ChatError(f"the server refused the request with HTTP {error.status_code}")
    except openai.APIConnectionError:
        end = ChatError("the server closed the connection in the middle" if reading else "no server can be reached")
    except openai.APIError:
        end = ChatError("the server reported an error in the place of a reply")
    except Exception as error:  # whatever a server sends, the caller must not wait in vain
        end = ChatError(f"the reply is not of OpenAI's protocol ({type(error).__name__})")
    pieces.put(end)


def _copy(chunks: Iterable[object], pieces: SimpleQueue[str | ChatError | None]) -> None:
    """Copy the texts of a stream, whose last part says why it has ended.

    Raises:
        ChatError: the model refused, the reply is too long, or it is cut short.
    """
    length, ended = 0, None
    for chunk in chunks:
        for choice in (getattr(chunk, "choices", None) or ())[:1]:
            delta = getattr(choice, "delta", None)
            if getattr(delta, "refusal", None):
                raise ChatError("the language model refused to answer")
            if isinstance(text := getattr(delta, "content", None), str) and text:
                length += len(text)
                pieces.put(text)
            ended = getattr(choice, "finish_reason", None) or ended
        if length > LONGEST:
            raise ChatError(f"the reply is longer than {LONGEST} characters, which is no answer to a question")
    if ended == "content_filter":
        raise ChatError("the server's filter held back the reply")
    if ended is None:
        raise ChatError("the reply ends in the middle" if length else "the server sent an empty reply")


def _without(key: str, pieces: Iterable[str]) -> Iterator[str]:
    """Replace a key that a server sends back, even where it is spread over pieces."""
    if key == NO_KEY:
        yield from pieces
        return
    held = ""
    for piece in pieces:
        held = (held + piece).replace(key, HIDDEN)
        begun = next((n for n in range(min(len(key) - 1, len(held)), 0, -1) if key.startswith(held[-n:])), 0)
        ready, held = held[: len(held) - begun], held[len(held) - begun :]
        if ready:
            yield ready
    if held:
        yield held
