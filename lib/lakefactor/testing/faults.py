"""Faults for training tests: real signals to real processes, in a chosen phase of a rank.

A fault wraps the communicator of a rank, so product code knows nothing of it. A marker file lets it strike once: the
attempt that follows is left alone.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from lakefactor.comm import Communicator
from lakefactor.spark.barrier import RankFunction
from lakefactor.spark.progress import Beacon

Kind = Literal["kill", "stop", "hang", "kill_executor", "kill_driver"]


@dataclass(frozen=True)
class Fault:
    """One fault of one rank.

    Attributes
    ----------
    kind : str
        ``kill`` (SIGKILL of the rank's process), ``stop`` (SIGSTOP), ``hang`` (alive, but never in the next exchange),
        ``kill_executor`` (SIGKILL of the JVM), ``kill_driver`` (SIGKILL of ``driver``).
    proc_rank : int
    at : str
        Phase in which it strikes, before the first exchange with a peer: ``build``, ``iteration 4``, ``snapshot 2``.
    folder : str
        Every rank leaves a file ``doomed-PID`` here, after the fault has struck ``spared-PID``; the fault itself
        leaves ``struck``.
    driver : int
        Process id.
    """

    kind: Kind
    proc_rank: int
    at: str
    folder: str
    driver: int = 0

    def wrap(self, function: RankFunction) -> RankFunction:
        """Return a rank function that has the fault."""

        def with_fault(comm: Communicator, batches: Iterable[pa.RecordBatch], line: Beacon) -> Iterator[pa.RecordBatch]:
            fate = "spared" if struck(Path(self.folder)) else "doomed"
            Path(self.folder, f"{fate}-{os.getpid()}").touch()
            yield from function(_Faulty(comm, self, line), batches, line)

        return with_fault

    def install(self, monkeypatch: Any) -> None:
        """Give the fault to every training of this process from now on."""
        from lakefactor.spark import training

        make: Callable[..., RankFunction] = training._rank_function
        monkeypatch.setattr(training, "_rank_function", lambda *args: self.wrap(make(*args)))

    def strike(self) -> None:
        """Do it, unless it was done before."""
        with suppress(FileExistsError):
            Path(self.folder, "struck").touch(exist_ok=False)
            if self.kind == "hang":
                threading.Event().wait()
            target = {"kill_executor": _parent(os.getppid()), "kill_driver": self.driver}.get(self.kind, os.getpid())
            os.kill(target, signal.SIGSTOP if self.kind == "stop" else signal.SIGKILL)


class _Faulty:
    def __init__(self, comm: Communicator, fault: Fault, line: Beacon) -> None:
        self._comm = comm
        self._fault = fault
        self._line = line

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._comm, name)
        due = self._comm.proc_rank == self._fault.proc_rank and self._line.doing == self._fault.at
        if callable(value) and due:
            self._fault.strike()
        return value


def struck(folder: Path) -> bool:
    """Tell whether the fault has struck."""
    return (folder / "struck").exists()


def doomed_ranks_alive(folder: Path) -> list[int]:
    """Return the process ids of ranks of struck attempts, below this folder, that live; zombies are dead.

    Ranks of the attempt that went well are not among them: Spark keeps their processes for its next job.
    """
    pids = [int(file.name.removeprefix("doomed-")) for file in folder.rglob("doomed-*") if struck(file.parent)]
    return [pid for pid in pids if _state(pid) not in ("", "Z", "X")]


def listening_ports(pids: Iterable[int]) -> set[int]:
    """Return the TCP ports on which any of these processes listens (Linux)."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                target = os.readlink(link)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    ports = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and fields[9] in inodes:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
