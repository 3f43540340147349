"""Where the page is served, which is checked before any model is loaded."""

from __future__ import annotations

import socket
from typing import NamedTuple

from vle_lightning.errors import UserError

LOCAL = "127.0.0.1"


class Place(NamedTuple):
    """Where the page is served."""

    address: str = LOCAL
    port: int | None = None  # a free one from 7860 on
    share: bool = False  # by a public link of Gradio's

    @property
    def host(self) -> str:
        """Return the address as a URL holds it: one of IPv6 stands in brackets."""
        return f"[{self.address}]" if ":" in self.address else self.address

    def check(self) -> None:
        """Listen for a moment.

        Raises:
            UserError: the address or the port cannot be used.
        """
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        try:
            socket.create_server((self.address, self.port or 0), family=family).close()
        except (OSError, OverflowError) as error:
            raise self.refuse(error) from error

    def refuse(self, error: Exception) -> UserError:
        """Return what to say where the page cannot be served; it names the options that were given."""
        given = [] if self.address == LOCAL else [f"--address {self.address}"]
        given += [] if self.port is None else [f"--port {self.port}"]
        told = str(error).rstrip(".")
        if not given:
            return UserError(f"the page cannot be served: {told}; name a port with --port")
        return UserError(f"{' '.join(given)}: {told}; choose another one")
