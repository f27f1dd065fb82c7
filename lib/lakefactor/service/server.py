"""The process: a socket, uvicorn around the application, and an end when it is told to."""

from __future__ import annotations

import errno
import socket
import sys

import uvicorn

from lakefactor.config import Config
from lakefactor.errors import SetupError
from lakefactor.service.app import create_app
from lakefactor.service.logs import log, write_json

SWITCH_SECONDS = 0.0005
"""Longest wait of the thread that has ranked for the one that reads requests; Python's own 5 ms are half our time."""

GRACE_SECONDS = 10
"""Longest wait for requests that are being answered when the service is told to stop."""


def serve(config: Config) -> None:
    """Serve until an interrupt or SIGTERM.

    Raises
    ------
    ConfigError
        As `create_app`.
    SetupError
        The address or port cannot be listened on.
    """
    app = create_app(config)
    listening = _bound(config.serve.host, config.serve.port)
    write_json()
    sys.setswitchinterval(SWITCH_SECONDS)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    with listening:
        host, port = listening.getsockname()[:2]
        log("listening", host=host, port=port, pages=f"http://{host}:{port}/" if config.serve.dashboard else None)
        server.run(sockets=[listening])


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens, before anything is loaded: a port that is taken is told at once."""
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listening = socket.socket(family, kind)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        advice = (
            "something else listens there: end it, or choose another port by --set serve.port=PORT (0: a free one)"
            if taken
            else f"{error.strerror}; check serve.host and serve.port"
        )
        raise SetupError(f"cannot listen on {host}, port {port}: {advice}") from None
    return listening
