"""The driver's watch over the ranks of one attempt: who is there, what each does, and who is to blame when it stops.

A rank is *lost* when its connection ends without a farewell (its process died), *silent* when no sign of life came for
a while (it is stopped, or its machine is), and *behind* when others have waited long for it in an exchange (it is slow,
or hangs). Ranks that fail because a peer is gone say so before they leave, and are not blamed.
"""

from __future__ import annotations

import json
import secrets
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from lakefactor.spark.progress import Address

TICK_SECONDS = 0.2
SHARE_OF_TIMEOUT = 0.8
"""A rank is given up after this share of the timeout; the rest is for ending the attempt."""
LOST_SECONDS = 3.0
"""Time for Spark to find out itself, and why, before the watchdog cancels after a loss."""
GOODBYE_SECONDS, FAILED_GOODBYE_SECONDS = 10.0, 1.0
"""Time for the ranks to leave by themselves, after an attempt that went well and after one that did not."""
_HELLO_BYTES = 4096

OnEvent = Callable[[dict[str, Any]], None]


@dataclass
class Rank:
    """What is known of one rank; times are the driver's."""

    proc_rank: int
    host: str
    pid: int
    since: float
    heard: float
    phase: str = "start"
    step: int = 0
    waiting: float = -1.0
    gone: float | None = None
    farewell: str | None = None

    def __str__(self) -> str:
        return f"rank {self.proc_rank} (process {self.pid} on {self.host}, in phase '{self.phase}')"


@dataclass
class _Connection:
    socket: socket.socket
    rank: Rank | None = None
    data: bytes = b""


@dataclass
class Watchdog:
    """Listens to the ranks while it is entered; one for each attempt.

    Parameters
    ----------
    host : str
        Address of the driver, as the ranks reach it.
    ranks : int
    timeout : float
        ``train.timeout_seconds``.
    on_event : callable
        Receives every event of a rank, with its ``proc_rank``; runs in the watchdog's thread.
    on_stuck : callable
        Ends the attempt.

    Attributes
    ----------
    verdict : str or None
        Which rank ended the attempt, and how.
    """

    host: str
    ranks: int
    timeout: float
    on_event: OnEvent
    on_stuck: Callable[[], None]
    verdict: str | None = None

    def __post_init__(self) -> None:
        self._limit = SHARE_OF_TIMEOUT * self.timeout
        self._known: dict[int, Rank] = {}
        self._open: set[socket.socket] = set()
        self._cancelled = False
        self._over = threading.Event()
        self._judged = threading.Condition()

    def __enter__(self) -> Address:
        self._selector = selectors.DefaultSelector()
        self._socket = socket.create_server((self.host, 0), backlog=min(self.ranks + 16, 4096))
        self._socket.setblocking(False)
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._token = secrets.token_hex(16)
        self._thread = threading.Thread(target=self._serve, name="lakefactor-watchdog", daemon=True)
        self._thread.start()
        return Address(self.host, self._socket.getsockname()[1], self._token)

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        self._until = monotonic() + (GOODBYE_SECONDS if kind is None else FAILED_GOODBYE_SECONDS)
        self._over.set()
        self._thread.join(2 * GOODBYE_SECONDS)

    def explain(self, seconds: float) -> str | None:
        """Return the verdict, waiting a little for it: a lost process is noticed here and by Spark at the same time."""
        with self._judged:
            self._judged.wait_for(lambda: self.verdict is not None, seconds)
        return self.verdict

    def _serve(self) -> None:
        """Hear and judge until the attempt is over and the ranks have left, or will not."""
        while not self._over.is_set() or (self._open and monotonic() < self._until):
            for key, _ in self._selector.select(TICK_SECONDS):
                if key.fileobj is self._socket:
                    self._accept()
                else:
                    self._hear(key.data)
            if not self._over.is_set():
                self._judge(monotonic())
        for connection in self._open:  # which tells the rank to end itself
            connection.close()
        self._selector.close()
        self._socket.close()

    def _accept(self) -> None:
        connection, _ = self._socket.accept()
        connection.setblocking(False)
        self._open.add(connection)
        self._selector.register(connection, selectors.EVENT_READ, _Connection(connection))

    def _hear(self, line: _Connection) -> None:
        try:
            data = line.socket.recv(1 << 16)
        except OSError:
            data = b""
        *lines, line.data = (line.data + data).split(b"\n")
        strange = False
        for text in lines:
            strange = strange or not self._understand(line, text)
        if not data or strange or (line.rank is None and len(line.data) > _HELLO_BYTES):
            self._selector.unregister(line.socket)
            self._open.discard(line.socket)
            line.socket.close()
            if line.rank is not None:
                line.rank.gone = monotonic()

    def _understand(self, line: _Connection, text: bytes) -> bool:
        """Take in one line; return False for one that no rank of ours sends."""
        now = monotonic()
        try:
            message = json.loads(text)
            if line.rank is None:
                if not secrets.compare_digest(str(message["token"]), self._token):
                    return False
                line.rank = Rank(int(message["proc_rank"]), str(message["host"]), int(message["pid"]), now, now)
                self._known[line.rank.proc_rank] = line.rank
                message = {"phase": "start", "host": line.rank.host, "pid": line.rank.pid}
        except (ValueError, KeyError, TypeError):
            return False
        rank = line.rank
        rank.heard = now
        if "beat" in message:
            rank.phase, rank.step, rank.waiting = message["beat"]
        elif "bye" in message:
            rank.farewell = message["bye"]
        else:
            self._pass_on({"proc_rank": rank.proc_rank, **message})
        return True

    def _pass_on(self, event: dict[str, Any]) -> None:
        try:
            self.on_event(event)
        except Exception:  # whoever looks on must not end the watch
            self.on_event = lambda event: None

    def _judge(self, now: float) -> None:
        if self.verdict is None:
            lost = self._lost()
            if found := lost or self._guilty(now):
                with self._judged:
                    self.verdict = found
                    self._judged.notify_all()
                self._cancel_at = now + (LOST_SECONDS if lost else 0)
        if self.verdict is not None and not self._cancelled and now >= self._cancel_at:
            self._cancelled = True
            threading.Thread(target=self.on_stuck, name="lakefactor-cancel", daemon=True).start()

    def _lost(self) -> str | None:
        """Blame the first rank that left without a word."""
        gone = [(rank.gone, rank) for rank in self._known.values() if rank.gone is not None and rank.farewell is None]
        if not gone:
            return None
        rank = min(gone, key=lambda pair: pair[0])[1]
        return f"{rank} of {self.ranks} died: it was killed, or ran out of memory"

    def _guilty(self, now: float) -> str | None:
        """Blame a rank that is silent, absent or behind."""
        present = [rank for rank in self._known.values() if rank.gone is None and rank.farewell is None]
        for rank in sorted(present, key=lambda rank: rank.heard):
            if (silent := now - rank.heard) > self._limit:
                return f"{rank} of {self.ranks} gave no sign of life for {silent:.0f} s: it or its machine stopped"
        if not present or any(rank.farewell for rank in self._known.values()):
            return None  # an error of a rank's own is on its way through Spark
        missing = set(range(self.ranks)) - set(self._known)
        if missing and (late := now - min(rank.since for rank in present)) > self._limit:
            return f"rank {min(missing)} of {self.ranks} is not there, {late:.0f} s after the first of its peers"
        longest = max(present, key=lambda rank: rank.waiting)
        if longest.waiting <= self._limit:
            return None
        behind = [rank for rank in present if (rank.step, rank.waiting >= 0) < (longest.step, True)]
        if not behind:
            return f"all {self.ranks} ranks have waited for each other for {longest.waiting:.0f} s: their network fails"
        slowest = min(behind, key=lambda rank: (rank.step, rank.proc_rank))
        return (
            f"{slowest} of {self.ranks} is behind: rank {longest.proc_rank} has waited {longest.waiting:.0f} s for it"
        )
