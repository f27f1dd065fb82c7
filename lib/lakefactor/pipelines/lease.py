"""One stream at a time, and one training of a kind: a file that says who holds it, renewed while the holder lives.

The holder's process id lets a job that was killed be started again at once on the same machine; on another machine
the lease has to run out first. It guards against a second start by mistake; what guards the tables is their
transactions.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lakefactor.errors import SetupError
from lakefactor.factorization.snapshot_folder import Folder

LEASE_SECONDS = 60.0
"""A lease that was not renewed for so long is nobody's."""

_FILE = "lease.json"


@contextmanager
def held(folder: Folder, name: str, advice: str) -> Iterator[None]:
    """Hold the lease of a folder.

    Parameters
    ----------
    folder : Folder
    name : str
        Who holds it, in words.
    advice : str
        What to do where another process holds it already.

    Raises
    ------
    SetupError
        Another process holds it.
    """
    holder = _holder(folder)
    if holder and holder["pid"] != os.getpid() and _is_alive(holder):
        raise SetupError(
            f"{holder['name']} is running on {holder['host']} (process {holder['pid']}); {advice}, "
            f"or wait {LEASE_SECONDS:g} s if it was killed there"
        )
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE_SECONDS / 6):
            _write(folder, name, renewed_at=time.time())

    _write(folder, name, renewed_at=time.time())
    renewing = threading.Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        _write(folder, name, renewed_at=0.0)


def holder_of(folder: Folder) -> str | None:
    """Return who holds the lease of a folder, in words; None: nobody does, or it has run out."""
    holder = _holder(folder)
    return f"{holder['name']} on {holder['host']} (process {holder['pid']})" if holder and _is_alive(holder) else None


def _is_alive(holder: dict[str, Any]) -> bool:
    if time.time() - holder["renewed_at"] > LEASE_SECONDS:
        return False
    if holder["host"] != socket.gethostname():
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _holder(folder: Folder) -> dict[str, Any] | None:
    try:
        found = json.loads(folder.read_bytes(_FILE))
    except (FileNotFoundError, ValueError):
        return None
    return found if {"name", "host", "pid", "renewed_at"} <= found.keys() else None


def _write(folder: Folder, name: str, renewed_at: float) -> None:
    record = {"name": name, "host": socket.gethostname(), "pid": os.getpid(), "renewed_at": renewed_at}
    folder.write_bytes(_FILE, json.dumps(record).encode())
