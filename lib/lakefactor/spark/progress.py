"""Live progress from the ranks to the driver, while the stage runs.

Rank 0 sends one JSON line per event over a socket that the driver opens for the attempt; a random token keeps other
processes out. Progress is a courtesy: when the driver cannot be reached, training goes on, and the same facts come
back with the result.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Address:
    """Where the driver listens."""

    host: str
    port: int
    token: str


class Listener:
    """Accepts rank 0's lines on the driver and hands each to a callback."""

    def __init__(self, host: str, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        self._socket = socket.create_server((host, 0))
        self.address = Address(host, self._socket.getsockname()[1], secrets.token_hex(16))
        self._thread = threading.Thread(target=self._serve, name="lakefactor-progress", daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed: the attempt is over
                return
            with connection, connection.makefile("r", encoding="utf-8") as lines:
                if lines.readline().strip() != self.address.token:
                    continue
                for line in lines:
                    self._on_event(json.loads(line))

    def __enter__(self) -> Address:
        self._thread.start()
        return self.address

    def __exit__(self, *exc_info: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=CONNECT_SECONDS)


@contextmanager
def reporter(address: Address | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that sends one event to the driver, or drops it when there is no one to hear it.

    Parameters
    ----------
    address : Address or None
        None: nobody listens.
    """
    connection = None
    if address is not None:
        # Nobody may be there: the driver can be out of this executor's reach.
        with suppress(OSError):
            connection = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
    if address is None or connection is None:
        yield lambda event: None
        return

    def send(event: dict[str, Any]) -> None:
        # A driver that has gone away must not end the training.
        with suppress(OSError):
            connection.sendall(json.dumps(event).encode() + b"\n")

    with connection:
        connection.sendall(address.token.encode() + b"\n")
        yield send
