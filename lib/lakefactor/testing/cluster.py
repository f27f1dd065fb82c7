"""A Spark standalone cluster on this machine: a master and workers of pyspark's own jars, each a process of its own.

Slow to start (about five seconds), so for what `local[n]` cannot show: executors that are killed, executor resources,
stage-level scheduling, and the files of conf/spark. The test process keeps its local session: jobs for the cluster are
processes too (`spark-submit --master URL`).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread, Timer

from pyspark.find_spark_home import _find_spark_home

import lakefactor

STARTING = 60.0
"""Longest wait (seconds) for a process to be ready, and for it to end."""


@dataclass(frozen=True)
class Daemon:
    """A master or a worker.

    Attributes
    ----------
    process : subprocess.Popen
        Its ``pid`` is the JVM's and leads a session, to which a worker's executors and their Python processes belong:
        `processes_of` lists them.
    log : deque of str
        The last lines that it has printed.
    """

    process: subprocess.Popen[str]
    log: deque[str] = field(default_factory=lambda: deque(maxlen=200))


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes
    ----------
    url : str
        ``spark://127.0.0.1:port``, for ``--master``.
    master : Daemon
    workers : tuple of Daemon
    """

    url: str
    master: Daemon
    workers: tuple[Daemon, ...]


@contextmanager
def standalone_cluster(
    folder: Path, workers: Sequence[Mapping[str, str]] = ({}, {}), cores: int = 1, memory: str = "1g"
) -> Iterator[Cluster]:
    """Run a cluster on loopback and free ports; end every process of it.

    Parameters
    ----------
    folder : Path
        Existing; each worker keeps its executors' files and logs in a folder ``worker-N`` of it.
    workers : sequence of mapping
        One worker for each: Spark settings of that worker alone, as ``spark.worker.resource.gpu.amount``.
    cores, memory : int, str
        What each worker lends.

    Raises
    ------
    RuntimeError
        A process did not come up; the text holds the end of its log.
    """
    with ExitStack() as stack:
        master, found = stack.enter_context(
            _daemon("master.Master", [], {}, re.compile(r"Starting Spark master at (spark://\S+)"))
        )
        url = found.group(1)
        started = []
        for number, settings in enumerate(workers):
            options = ["--cores", str(cores), "--memory", memory, "--work-dir", str(folder / f"worker-{number}"), url]
            ready = re.compile(r"Successfully registered with master")
            started.append(stack.enter_context(_daemon("worker.Worker", options, settings, ready))[0])
        yield Cluster(url, master, tuple(started))


@contextmanager
def _daemon(
    name: str, options: list[str], settings: Mapping[str, str], ready: re.Pattern[str]
) -> Iterator[tuple[Daemon, re.Match[str]]]:
    command = [str(Path(_find_spark_home(), "bin", "spark-class")), f"org.apache.spark.deploy.{name}"]
    command += ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0", *options]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(settings),
        start_new_session=True,
    )
    daemon = Daemon(process)
    assert process.stdout is not None
    reader = None
    try:
        found = _wait(daemon, ready)
        reader = Thread(target=daemon.log.extend, args=(process.stdout,), daemon=True)  # a full pipe would stop it
        reader.start()
        yield daemon, found
    finally:
        _end(process)
        if reader is not None:
            reader.join(STARTING)
        process.stdout.close()


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return what a daemon, and every executor that it starts, sees: this checkout, loopback, a small heap."""
    checkout = str(Path(lakefactor.__file__).parents[1])
    path = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH", "")]))
    return os.environ | {
        "PYTHONPATH": path,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_WORKER_OPTS": " ".join(f"-D{key}={value}" for key, value in settings.items()),
    }


def _wait(daemon: Daemon, ready: re.Pattern[str]) -> re.Match[str]:
    """Read the daemon's log up to the line that says that it is ready."""
    process = daemon.process
    assert process.stdout is not None
    late = Timer(STARTING, process.kill)  # ends the log, and thereby the loop
    late.start()
    try:
        for line in iter(process.stdout.readline, ""):
            daemon.log.append(line)
            if found := ready.search(line):
                return found
    finally:
        late.cancel()
    raise RuntimeError("a process of the Spark cluster did not come up:\n" + "".join(daemon.log))


def _end(process: subprocess.Popen[str]) -> None:
    """End a daemon, politely at first (a worker then ends its executors), and whatever is left of its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)  # a stopped one would not hear
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STARTING)
    for pid in processes_of(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def processes_of(session: int) -> list[int]:
    """Return the living processes of a session, as a daemon's ``process.pid`` names one; zombies are dead."""
    alive = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, sid = status.read_text().rpartition(")")[2].split()[:4]
            if int(sid) == session and state not in "ZX":
                alive.append(int(status.parent.name))
    return alive
