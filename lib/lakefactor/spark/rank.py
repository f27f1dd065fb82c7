"""What one rank does in the training stage: build its shard, fit, write snapshots, and tell the driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from lakefactor.comm import Communicator, exchange_parts
from lakefactor.config import Config
from lakefactor.errors import SnapshotError
from lakefactor.factorization import snapshot as snapshots
from lakefactor.factorization.fitting import Algorithm, Fit, Training, fit, stops
from lakefactor.factorization.held_out import HeldOut
from lakefactor.factorization.shard import Shard, build_shard
from lakefactor.factorization.warm_start import WarmRows
from lakefactor.spark.progress import Beacon, peak_memory, reset_peak_memory
from lakefactor.spark.resources import task_device
from lakefactor.types import Side


class RankTraining:
    """One rank's training.

    Parameters
    ----------
    comm : Communicator
    line : Beacon
    config : Config
    place : Place or None
        Where snapshots go.
    snapshot : Manifest or None
        What to go on from.
    warm : bool
        Whether factor rows come with the interactions.
    """

    def __init__(
        self,
        comm: Communicator,
        line: Beacon,
        config: Config,
        place: snapshots.Place | None,
        snapshot: snapshots.Manifest | None,
        warm: bool,
    ) -> None:
        self._comm = comm
        self._line = line
        self._config = config
        self._place = place
        self._snapshot = snapshot
        self._warm = WarmRows(config.model.rank, config.model.algorithm in ("explicit_als", "sgd")) if warm else None
        self._warm_rows: dict[Side, int] = {}
        train = config.train
        self._held_out = HeldOut(train.stop_share, train.stop_metric) if train.stop_metric else None

    def run(self, batches: Iterable[pa.RecordBatch]) -> tuple[Shard, Fit]:
        """Train on a rank's rows."""
        self._shard = shard = self._build(batches)
        self._next_iteration(self._snapshot.iteration + 1 if self._snapshot else 1)
        trained = fit(
            shard,
            self._comm,
            self._config.model,
            self._config.train,
            self._config.sgd,
            start=self._start,
            measure=self._measure if self._held_out else None,
            on_iteration=self._on_iteration,
            closing=lambda: self._line.phase("close"),
            device=task_device() or "cpu",
        )
        return shard, trained

    def log(self, trained: Fit) -> dict[str, Any]:
        """Return what the driver records of the training."""
        return {
            "mean": trained.mean,
            "totals": asdict(trained.totals),
            "history": [asdict(iteration) for iteration in trained.history],
            "kept": trained.kept,
            "objective": trained.objective,
            "held_out": self._held_out.count if self._held_out else 0,
            "warm_rows": self._warm_rows,
        }

    def _build(self, batches: Iterable[pa.RecordBatch]) -> Shard:
        reset_peak_memory()
        began = perf_counter()
        self._line.enter("deliver")
        entries = self._delivered(batches)
        if self._warm:
            entries = self._warm.split(entries)
        if self._held_out:
            entries = self._held_out.split(entries)
        self._delivering = 0.0
        shard = build_shard(self._comm, entries)
        if self._held_out:
            self._held_out.prepare(self._comm, shard)
        self._line.timed("deliver", self._delivering)
        self._line.timed("build", perf_counter() - began - self._delivering, peak=peak_memory())
        return shard

    def _delivered(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass batches on, and sum up how long each was waited for."""
        iterator = iter(batches)
        while True:
            began = perf_counter()
            batch = next(iterator, None)
            self._delivering += perf_counter() - began
            if batch is None:
                self._line.enter("build")
                return
            yield batch

    def _start(self, training: Training) -> None:
        if self._snapshot is not None and self._place is not None:
            with self._line.phase("read_snapshot"):
                self._read_snapshot(self._place, self._snapshot, training)
        elif self._warm is not None:
            with self._line.phase("warm_start"):
                self._warm_rows = self._warm.fill(self._comm, self._shard, training)
            self._warm = None
        self._next_iteration(len(training.history) + 1)

    def _read_snapshot(self, place: snapshots.Place, snapshot: snapshots.Manifest, training: Training) -> None:
        problem = ""
        try:
            snapshots.read(place, snapshot, self._comm.proc_rank, self._shard, training)
        except SnapshotError as error:
            problem = str(error)
        # All ranks raise it, or the driver might hear of a rank that lost a peer, and not of the snapshot.
        text = np.frombuffer(problem.encode(), np.uint8)
        for told in exchange_parts(self._comm, [text] * self._comm.size):
            if len(told):
                raise SnapshotError(told.tobytes().decode())

    def _measure(self, algorithm: Algorithm) -> float:
        assert self._held_out is not None
        before = self._line.waited
        with self._line.phase("measure", self._number):
            metric = self._held_out.measure(self._comm, algorithm)
        self._waited += self._line.waited - before
        return metric

    def _on_iteration(self, training: Training) -> None:
        done = training.history[-1]
        exchange = self._line.waited - self._waited
        self._line.timed("iteration", done.seconds, done.number, peak_memory())
        self._line.timed("exchange", exchange, done.number)
        self._line.timed("solve", max(0.0, done.seconds - exchange), done.number)
        if self._comm.proc_rank == 0:
            self._line.report(phase="iteration", **asdict(done))
        if self._is_due(training):
            assert self._place is not None
            with self._line.phase("snapshot", done.number):
                problem = snapshots.write(self._place, self._comm, self._shard, training)
            if problem:
                rank = f"rank {self._comm.proc_rank}"
                text = f"{rank} could not write the snapshot of iteration {done.number}: {problem}"
                self._line.report(phase="note", text=text)
        self._next_iteration(done.number + 1)

    def _is_due(self, training: Training) -> bool:
        train, number = self._config.train, len(training.history)
        if self._place is None or not train.snapshot_every or number % train.snapshot_every:
            return False
        return number < train.iterations and not stops(training, train)  # the end needs none

    def _next_iteration(self, number: int) -> None:
        self._number = number
        self._line.enter(f"iteration {number}")
        reset_peak_memory()
        self._waited = self._line.waited
