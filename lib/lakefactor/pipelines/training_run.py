"""A training as others may know it: by what decides its result, by its snapshots, and as the only one of its kind."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from lakefactor.config import Config, canonical_json, digest
from lakefactor.factorization import snapshot as snapshots
from lakefactor.factorization.snapshot_folder import Folder
from lakefactor.pipelines.lease import held, holder_of
from lakefactor.pipelines.models import ModelRecord
from lakefactor.spark.tables import Tables

SNAPSHOT_FOLDER = "_snapshots"
"""Under ``tables.root``; VACUUM leaves folders that begin with ``_`` alone."""

LEASES = "_leases"
"""In that folder: which trainings run."""

ABANDONED = timedelta(days=7)
"""Snapshots of a training that nobody went on with are removed after this time: they hold users' factors."""

_OPERATION = {
    "attempts",
    "backend",
    "memory_budget_mb",
    "ranks",
    "snapshot_every",
    "snapshot_root",
    "threads_per_rank",
    "timeout_seconds",
}
"""Keys of ``train`` that change how a training runs and not what it computes: it may go on with others."""

Note = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """What is trained on what.

    Attributes
    ----------
    config : Config
    interactions_version : int
        Version of `interactions`.
    live : ModelRecord or None
        Model that it begins from.
    align_to : str or None
        Version toward which its factors are turned.
    identity : str
        Digest of all that decides what it computes.
    """

    config: Config
    interactions_version: int
    live: ModelRecord | None
    align_to: str | None
    identity: str

    @classmethod
    def of(
        cls,
        config: Config,
        tables: Tables,
        interactions_version: int,
        live: ModelRecord | None,
        align_to: str | None = None,
    ) -> Training:
        """Find the identity of a training."""
        decisive = config.train.model_dump(mode="json", exclude=_OPERATION)
        parts = [
            canonical_json(config.model),
            canonical_json(config.sgd),
            repr(sorted(decisive.items())),
            tables.uid("interactions"),
            str(interactions_version),
            live.model_version if live else "",
            align_to or "",
        ]
        return cls(config, interactions_version, live, align_to, digest(*parts))

    def alone(self, folder: Folder | None) -> AbstractContextManager[None]:
        """Run as the only one of this identity that keeps its snapshots in a folder.

        Raises
        ------
        SetupError
            It is running elsewhere.
        """
        if folder is None:
            return nullcontext()  # of two that end, `models` takes one
        lease = Folder(f"{folder.root}/{LEASES}/{self.identity[:16]}")
        return held(lease, "the same training", "wait for its end, and the same command finds its model version")

    def place(self, folder: Folder, fresh: bool, note: Note) -> snapshots.Place:
        """Return where its snapshots go: to a new run, or to the unfinished one of the same identity."""
        unfinished = list(snapshots.runs(folder, self.identity))
        if fresh:
            for run_id in unfinished:
                snapshots.discard(folder, run_id)
        elif unfinished:
            note(f"going on with {unfinished[0]}, which was cut off; --fresh would begin anew")
            return snapshots.Place(folder, unfinished[0], self.identity)
        return snapshots.Place(folder, new_model_version(), self.identity)


def snapshot_folder(config: Config, note: Note) -> Folder | None:
    """Return the folder for snapshots; None where there are to be none, or none can be."""
    train, root = config.train, config.tables.root
    if not train.snapshot_every:
        return None
    if not train.snapshot_root and not root:
        note("no snapshots: tables.catalog has no folder for them; set train.snapshot_root")
        return None
    folder = Folder(train.snapshot_root or f"{root.rstrip('/')}/{SNAPSHOT_FOLDER}")
    try:
        folder.children("")
    except (OSError, ValueError) as error:
        note(f"no snapshots: {folder.root} cannot be used: {error}; set train.snapshot_root")
        return None
    return folder


def clean_up(place: snapshots.Place, note: Note) -> None:
    """Remove the snapshots of a finished training, and of those that were given up long ago."""
    try:
        for run_id in {place.run, *abandoned(place.folder)}:
            snapshots.discard(place.folder, run_id)
    except OSError as error:
        note(f"snapshots in {place.folder.root} could not be removed: {error}")


def abandoned(folder: Folder) -> list[str]:
    """Return the trainings with snapshots that nobody has gone on with for long."""
    return [run_id for run_id in folder.children("") if run_id < oldest_kept()]


def oldest_kept() -> str:
    """Return what the name of a version is not below that may still be trained."""
    return f"{datetime.now(timezone.utc) - ABANDONED:%Y%m%d-%H%M%S}"


def running(folder: Folder) -> list[str]:
    """Return the trainings that keep snapshots in a folder and run now, in words."""
    found = (holder_of(Folder(f"{folder.root}/{LEASES}/{name}")) for name in _leases(folder))
    return [holder for holder in found if holder]


def finished_leases(folder: Folder) -> list[str]:
    """Return the leases, under ``LEASES``, of trainings that do not run."""
    return [name for name in _leases(folder) if not holder_of(Folder(f"{folder.root}/{LEASES}/{name}"))]


def _leases(folder: Folder) -> list[str]:
    return Folder(f"{folder.root}/{LEASES}").children("")


def new_model_version() -> str:
    """Return a name that sorts by time and is unique, such as ``20261122-154312-3f9c``."""
    return f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
