"""Keeps the newest snapshot: looks at the tables in a thread of its own, and replaces the snapshot as a whole."""

from __future__ import annotations

import time
from threading import Event, Lock, Thread

from lakefactor.config import Config
from lakefactor.errors import LakefactorError, TableError
from lakefactor.query.lake import Lake
from lakefactor.service.logs import log
from lakefactor.service.metrics import Metrics
from lakefactor.service.reading import look
from lakefactor.service.snapshot import Snapshot


class NoModelError(TableError):
    """There is no model to answer from yet."""


class Keeper:
    """Owns the snapshot that requests are answered from.

    While the tables cannot be read, or hold less than a model, the last snapshot goes on answering.

    Parameters
    ----------
    config : Config
        ``tables``, ``serve``, and the rules of ``recommend``.
    metrics : Metrics
        Told of every look.
    """

    def __init__(self, config: Config, metrics: Metrics) -> None:
        self._lake, self._config, self._metrics = Lake(config.tables), config, metrics
        self._snapshot: Snapshot | None = None
        self._error: str | None = "the tables have not been read yet"
        self._looked_at: float | None = None
        self._looking, self._ended = Lock(), Event()
        self._thread: Thread | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot to answer from; a request asks once.

        Raises
        ------
        NoModelError
            There is none yet.
        """
        if self._snapshot is None:
            raise NoModelError(f"there is no model to answer from: {self._error}; /ready tells when there is one")
        return self._snapshot

    @property
    def loaded(self) -> Snapshot | None:
        """The snapshot, or None while there is none."""
        return self._snapshot

    @property
    def error(self) -> str | None:
        """Why the last look at the tables failed; None: it did not."""
        return self._error

    @property
    def seconds_since_look(self) -> float | None:
        """Age of the last look that succeeded; None: none has."""
        return None if self._looked_at is None else time.monotonic() - self._looked_at

    def look(self) -> bool:
        """Look at the tables now; tell whether that succeeded, whatever has changed."""
        with self._looking:
            try:
                new = look(self._lake, self._snapshot, self._config)
            except Exception as error:  # of delta-rs, Arrow or the file system: half-written files have many names
                self._failed(_reason(error))
                return False
            if new is None:
                self._failed("no model is published; 'lakefactor publish' publishes one")
                return False
            self._looked_at = time.monotonic()
            if self._error is not None and self._snapshot is not None:
                log("tables_read_again")
            self._error = None
            if new is not self._snapshot:
                self._snapshot = new
                log("snapshot", model_version=new.model.model_version, batch_id=new.batch_id)
            self._metrics.looked(new)
            return True

    def start(self) -> None:
        """Look at the tables every ``serve.poll_seconds``, from now on."""
        self._ended.clear()
        self._thread = Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        self.look()
        while not self._ended.wait(self._config.serve.poll_seconds):
            self.look()

    def _failed(self, reason: str) -> None:
        self._metrics.look_failures.inc()
        if reason != self._error:  # once, and not at every look
            log("tables_not_read", "warning", reason=reason)
        self._error = reason


def _reason(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    return text if isinstance(error, LakefactorError) else f"{type(error).__name__}: {text}"
