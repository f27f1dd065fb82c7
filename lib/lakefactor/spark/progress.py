"""What a rank tells the driver while the stage runs: that it lives, what it does, how long that took.

Each rank keeps a connection to a socket that the driver opens for the attempt (`watchdog`); a random token keeps other
processes out. Lines of JSON go to the driver, nothing comes back: the end of the connection says that the attempt is
over, and then the process ends itself, even if its main thread is stuck in native code and deaf to Spark.

Where the driver cannot be reached, training goes on without; gloo's own timeout then ends an attempt that hangs.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import resource
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any

CONNECT_SECONDS = 5.0
BEAT_SECONDS = 0.5
"""Between two signs of life."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Address:
    """Where the driver listens."""

    host: str
    port: int
    token: str


class Beacon:
    """A rank's line to the driver; made by `beacon`.

    Attributes
    ----------
    doing : str
        The phase that the rank is in.
    waited : float
        Seconds that this rank has spent in exchanges with its peers, so far.
    """

    def __init__(self, proc_rank: int) -> None:
        self.proc_rank = proc_rank
        self.waited = 0.0
        self.doing = "start"
        self._step = 0
        self._waiting_since: float | None = None
        self._lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def report(self, **event: Any) -> None:
        """Send an event; never waits."""
        self._lines.put(event)

    @contextmanager
    def phase(self, name: str, iteration: int | None = None) -> Iterator[None]:
        """Time a part of the work, with the peak of the process's memory in it."""
        self.enter(name if iteration is None else f"{name} {iteration}")
        reset_peak_memory()
        began = perf_counter()
        yield
        self.timed(name, perf_counter() - began, iteration, peak_memory())

    def enter(self, phase: str) -> None:
        """Say what is being done now."""
        self.doing = phase
        self._lines.put({"beat": self._beat()})

    def timed(self, name: str, seconds: float, iteration: int | None = None, peak: int | None = None) -> None:
        """Say how long something took (seconds), and the peak of memory (bytes)."""
        self.report(timing={"phase": name, "iteration": iteration, "seconds": seconds, "peak_memory_bytes": peak})

    def wait_for_peers(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap an operation that all ranks do together, so that the driver sees who keeps the others waiting."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._step += 1
            self._waiting_since = began = monotonic()
            try:
                return call(*args, **kwargs)
            finally:
                self.waited += monotonic() - began
                self._waiting_since = None

        return counted

    def _beat(self) -> list[Any]:
        since = self._waiting_since
        return [self.doing, self._step, -1.0 if since is None else monotonic() - since]

    def _talk(self, connection: socket.socket, over: threading.Event, on_lost: Callable[[], None]) -> None:
        """Send lines and signs of life until `over`; the thread of a running rank."""
        try:
            while not over.is_set():
                self._send(connection)
                if select.select([connection], [], [], 0)[0] and not connection.recv(1):
                    raise ConnectionError
            self._send(connection)
        except OSError:
            on_lost()

    def _send(self, connection: socket.socket) -> None:
        """Wait for a line, or for the time of the next sign of life; send what there is."""
        lines: list[dict[str, Any]] = []
        with suppress(queue.Empty):
            lines.append(self._lines.get(timeout=BEAT_SECONDS))
            while True:
                lines.append(self._lines.get_nowait())
        lines.append({"beat": self._beat()})
        connection.sendall("".join(json.dumps(line) + "\n" for line in lines).encode())


class Watched:
    """A communicator whose operations the driver can follow."""

    def __init__(self, comm: Any, beacon: Beacon) -> None:
        self._comm = comm
        self._beacon = beacon

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._comm, name)
        return self._beacon.wait_for_peers(value) if callable(value) else value


def end_this_process() -> None:
    """Die at once: what is left of an attempt must not go on, whatever it is stuck in."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def beacon(address: Address, proc_rank: int, on_lost: Callable[[], None] = end_this_process) -> Iterator[Beacon]:
    """Keep a line to the driver open for the length of a ``with`` block.

    Parameters
    ----------
    address : Address
    proc_rank : int
    on_lost : callable
        Called, in another thread, when the driver has hung up.
    """
    line = Beacon(proc_rank)
    connection = None
    with suppress(OSError):  # the driver can be out of this executor's reach
        connection = socket.create_connection((address.host, address.port), timeout=CONNECT_SECONDS)
    if connection is None:
        yield line
        return
    die_with_parent()
    connection.settimeout(None)
    hello = {"token": address.token, "proc_rank": proc_rank, "host": socket.gethostname(), "pid": os.getpid()}
    over = threading.Event()
    with connection:
        connection.sendall(json.dumps(hello).encode() + b"\n")
        thread = threading.Thread(
            target=line._talk, args=(connection, over, on_lost), name="lakefactor-beacon", daemon=True
        )
        thread.start()
        try:
            yield line
        except GeneratorExit:  # Spark wants no more rows
            line.report(bye="")
            raise
        except BaseException as error:
            line.report(bye=f"{type(error).__name__}: {error}")
            raise
        else:
            line.report(bye="")
        finally:  # the farewell is the last line in the queue
            over.set()
            thread.join(CONNECT_SECONDS)


def die_with_parent() -> None:
    """Ask the kernel (Linux) to kill this process when its parent, Spark's Python daemon, is gone.

    A stopped process does not hear the daemon's own farewell; this it need not hear.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def reset_peak_memory() -> None:
    """Let the peak of this process's memory begin anew, where the kernel can do that."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high water mark alone; see proc(5)


def peak_memory() -> int:
    """Return the peak of this process's resident memory (bytes) since it was reset, or since the start."""
    with suppress(OSError), open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
