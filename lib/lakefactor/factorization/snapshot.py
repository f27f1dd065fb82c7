"""Snapshots of a running training: what a later attempt, on any number of ranks, goes on from.

::

    <root>/<run>/iteration-000010/user-00000-of-00002.arrow    ids and state of the rows of one side of one rank
                                  item-00000-of-00002.arrow
                                  ...
                                  manifest.json                written last: without it there is no snapshot

Files are Arrow IPC, never pickle. A reader trusts nothing: names are computed and not taken from a file, links are not
followed, every byte is hashed before it is parsed, and the columns must be those of the state that they fill. What
does not pass is a `SnapshotError`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from lakefactor.comm import Communicator, all_gather
from lakefactor.errors import SnapshotError
from lakefactor.factorization.fitting import Iteration, Training
from lakefactor.factorization.shard import Shard
from lakefactor.factorization.snapshot_folder import Folder
from lakefactor.types import SIDES, Side

FORMAT = 1
"""Raised with every change that older code cannot read."""

BATCH_BYTES = 8 << 20
"""State written, and read, in one piece."""

MANIFEST = "manifest.json"
KEPT = 2
"""Complete snapshots of a run that stay: should the newest be damaged, there is one before it."""

_BEST = "best:"  # before the names of arrays of `Training.best`


class File(BaseModel):
    """One file of a snapshot, as its writer knew it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a complete snapshot holds.

    Attributes
    ----------
    format : int
    run : str
        The training's name; also its folder's.
    identity : str
        Digest of everything that decides the result: configuration and input versions.
    iteration, size : int
        Iterations done, and ranks W that wrote it.
    history : list of dict
        The iterations, as `fitting.Iteration`.
    files : list of File
        Those of users, then those of items, in rank order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: int
    run: str
    identity: str
    iteration: int
    size: int
    history: list[dict[str, Any]]
    files: list[File]

    def iterations(self) -> list[Iteration]:
        """Return the history."""
        return [Iteration(**iteration) for iteration in self.history]


@dataclass(frozen=True)
class Place:
    """Where one training keeps its snapshots; goes to the ranks.

    Attributes
    ----------
    folder : Folder
        Of all trainings.
    run, identity : str
        As in the manifest.
    """

    folder: Folder
    run: str
    identity: str

    def path(self, iteration: int, name: str = "") -> str:
        """Return the path of a snapshot, or of a file in it, under the folder."""
        return "/".join(filter(None, [self.run, f"iteration-{iteration:06d}", name]))


def file_name(side: Side, proc_rank: int, size: int) -> str:
    """Return the name of one rank's file.

    >>> file_name("user", 1, 8)
    'user-00001-of-00008.arrow'
    """
    return f"{side}-{proc_rank:05d}-of-{size:05d}.arrow"


def write(place: Place, comm: Communicator, shard: Shard, training: Training) -> str | None:
    """Write a snapshot; every rank calls this after the same iteration.

    Returns
    -------
    str or None
        Why this rank could not write; a snapshot is complete only if all ranks return None. The training can go on.
    """
    iteration = len(training.history)
    files, problem = [], None
    try:
        files = [_write_side(place, comm, iteration, shard.rows[side].ids, _arrays(training, side), side)
                 for side in SIDES]  # fmt: skip
    except OSError as error:
        problem = f"{type(error).__name__}: {error}"
    row = np.zeros((len(SIDES), 40), np.uint8)
    for line, file in zip(row, files, strict=False):
        line[:8] = np.array([file.bytes], np.int64).view(np.uint8)
        line[8:] = np.frombuffer(bytes.fromhex(file.sha256), np.uint8)
    everyone = all_gather(comm, row)  # from here on all files are there
    sizes = everyone[:, :, :8].copy().view(np.int64)[:, :, 0]
    if problem or not sizes.all() or comm.proc_rank:
        return problem
    manifest = Manifest(
        format=FORMAT,
        run=place.run,
        identity=place.identity,
        iteration=iteration,
        size=comm.size,
        history=[asdict(done) for done in training.history],
        files=[
            File(name=file_name(side, r, comm.size), bytes=int(sizes[r, s]), sha256=everyone[r, s, 8:].tobytes().hex())
            for s, side in enumerate(SIDES)
            for r in range(comm.size)
        ],
    )
    try:
        place.folder.write_bytes(place.path(iteration, MANIFEST), _sealed(manifest))
        _remove_old(place, iteration)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return None


def find(place: Place, refused: frozenset[int] = frozenset()) -> tuple[Manifest | None, list[str]]:
    """Return the newest complete snapshot of a training, and what is wrong with newer ones.

    Parameters
    ----------
    place : Place
    refused : frozenset of int
        Iterations whose files turned out to be damaged.
    """
    problems: list[str] = []
    for iteration in sorted(_iterations(place.folder, place.run), reverse=True):
        if iteration in refused or not place.folder.exists(place.path(iteration, MANIFEST)):
            continue
        try:
            return read_manifest(place, iteration), problems
        except SnapshotError as error:
            problems.append(str(error))
    return None, problems


def read_manifest(place: Place, iteration: int) -> Manifest:
    """Return the manifest of a snapshot.

    Raises
    ------
    SnapshotError
        It is damaged, of another format, run, configuration or input, or names files that are not there.
    """
    path = place.path(iteration, MANIFEST)
    try:
        sealed = json.loads(place.folder.read_bytes(path))
        seal = sealed.pop("seal")
        manifest = Manifest.model_validate_json(json.dumps(sealed))
        done = manifest.iterations()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _refuse(path, f"it is not a manifest ({type(error).__name__})") from None
    if seal != _seal(manifest):
        raise _refuse(path, "its checksum does not match")
    wanted = {"format": FORMAT, "run": place.run, "identity": place.identity, "iteration": iteration}
    for name, value in wanted.items():
        if getattr(manifest, name) != value:
            raise _refuse(path, f"its {name} is {getattr(manifest, name)!r}, not {value!r}")
    if [iteration.number for iteration in done] != list(range(1, manifest.iteration + 1)):
        raise _refuse(path, "its history is not that of its iterations")
    names = [file_name(side, r, manifest.size) for side in SIDES for r in range(manifest.size)]
    if [file.name for file in manifest.files] != names:
        raise _refuse(path, f"it names other files than those of {manifest.size} ranks")
    for file in manifest.files:
        size = place.folder.size(place.path(iteration, file.name))
        if size != file.bytes:
            raise _refuse(
                place.path(iteration, file.name), f"it has {size} bytes instead of {file.bytes}" if size >= 0
                else "it is missing")  # fmt: skip
    return manifest


def read(place: Place, manifest: Manifest, proc_rank: int, shard: Shard, training: Training) -> None:
    """Fill a training with a snapshot; every rank takes the rows that it owns, whoever wrote them.

    Parameters
    ----------
    place : Place
    manifest : Manifest
        From `find`.
    proc_rank : int
        This rank; with as many ranks as wrote the snapshot, each finds its rows in its own files alone.
    shard : Shard
    training : Training
        At its initial state; changed in place.

    Raises
    ------
    SnapshotError
        A file is damaged, is not Arrow, has other columns than the state, or a row is in none of them.
    """
    training.history[:] = manifest.iterations()
    if training.kept < len(training.history):
        training.best = {
            side: {name: np.zeros_like(array) for name, array in arrays.items()}
            for side, arrays in training.state.items()
        }
    for side in SIDES:
        _read_side(place, manifest, proc_rank, shard.rows[side].ids, _arrays(training, side), side)


def discard(folder: Folder, run: str) -> None:
    """Remove all snapshots of a run, if there are any."""
    folder.remove(run)


def runs(folder: Folder, identity: str) -> Iterator[str]:
    """Yield the runs that have a complete snapshot of this identity, newest name first."""
    for run in sorted(folder.children(""), reverse=True):
        if find(Place(folder, run, identity))[0] is not None:
            yield run


def _iterations(folder: Folder, run: str) -> list[int]:
    names = [name.removeprefix("iteration-") for name in folder.children(run)]
    return [int(name) for name in names if len(name) == 6 and name.isascii() and name.isdigit()]


def _arrays(training: Training, side: Side) -> dict[str, NDArray]:
    """Return the arrays that a side's file holds, by column name."""
    arrays = dict(training.state[side])
    if training.best is not None and training.kept < len(training.history):
        arrays |= {_BEST + name: array for name, array in training.best[side].items()}
    return arrays


def _write_side(
    place: Place, comm: Communicator, iteration: int, ids: pa.Array, arrays: dict[str, NDArray], side: Side
) -> File:
    name = file_name(side, comm.proc_rank, comm.size)
    row_bytes = sum(array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)) for array in arrays.values())
    step = max(1, BATCH_BYTES // max(1, row_bytes))
    schema = pa.schema([("id", ids.type), *((key, _column(array[:0]).type) for key, array in arrays.items())])
    with place.folder.writing(place.path(iteration, name)) as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, len(ids), step):
            columns = [ids.slice(start, step), *(_column(array[start : start + step]) for array in arrays.values())]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return File(name=name, bytes=sink.count, sha256=sink.sha256.hexdigest())


def _column(array: NDArray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(array).ravel())
    if array.ndim == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:], dtype=np.int64)))


def _read_side(
    place: Place, manifest: Manifest, proc_rank: int, ids: pa.Array, arrays: dict[str, NDArray], side: Side
) -> None:
    entries = {file.name: file for file in manifest.files}
    missing = np.arange(len(ids))
    for turn in range(manifest.size):
        if not len(missing):
            return
        file = entries[file_name(side, (proc_rank + turn) % manifest.size, manifest.size)]
        path = place.path(manifest.iteration, file.name)
        place.folder.verify(path, file.bytes, file.sha256)
        try:
            with place.folder.reading(path) as source, pa.ipc.open_file(source) as reader:
                _check_columns(path, reader.schema, ids.type, arrays)
                missing = _take(reader, ids, missing, arrays)
        except (pa.ArrowException, OSError) as error:
            raise _refuse(path, f"it cannot be read as Arrow ({str(error).splitlines()[0]})") from None
    if len(missing):
        raise _refuse(
            place.path(manifest.iteration), f"{len(missing)} {side} rows are in none of its files, the first of "
            f"{ids[int(missing[0])]}")  # fmt: skip


def _check_columns(path: str, found: pa.Schema, id_type: pa.DataType, arrays: dict[str, NDArray]) -> None:
    wanted = pa.schema([("id", id_type), *((name, _column(array[:0]).type) for name, array in arrays.items())])
    if not found.equals(wanted):
        raise _refuse(path, f"its columns are {_short(found)}, not {_short(wanted)}")


def _take(reader: pa.RecordBatchFileReader, ids: pa.Array, missing: NDArray, arrays: dict[str, NDArray]) -> NDArray:
    """Copy the rows of ``ids[missing]`` that this file holds; return those that it does not hold."""
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    if not batches:
        return missing
    for batch in batches:
        batch.validate(full=True)
    there = pa.chunked_array([batch.column(0) for batch in batches]).combine_chunks()
    places = pc.index_in(ids.take(pa.array(missing)), value_set=there)
    found = places.is_valid().to_numpy(zero_copy_only=False)
    rows, sources = missing[found], places.drop_null().to_numpy()
    order = np.argsort(sources, kind="stable")
    rows, sources = rows[order], sources[order]
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    cuts = np.searchsorted(sources, starts)
    for number, batch in enumerate(batches):
        own, local = rows[cuts[number] : cuts[number + 1]], sources[cuts[number] : cuts[number + 1]] - starts[number]
        for name, array in arrays.items():
            column = batch.column(name)
            values = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
            array[own] = values.to_numpy(zero_copy_only=False).reshape(len(batch), *array.shape[1:])[local]
    return missing[~found]


def _remove_old(place: Place, newest: int) -> None:
    complete = [n for n in sorted(_iterations(place.folder, place.run), reverse=True)
                if n <= newest and place.folder.exists(place.path(n, MANIFEST))]  # fmt: skip
    oldest = complete[:KEPT][-1]
    for iteration in _iterations(place.folder, place.run):
        if iteration < oldest:
            place.folder.remove(place.path(iteration))


def _sealed(manifest: Manifest) -> bytes:
    return json.dumps(manifest.model_dump(mode="json") | {"seal": _seal(manifest)}, indent=1).encode()


def _seal(manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(manifest.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _short(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _refuse(path: str, problem: str) -> SnapshotError:
    return SnapshotError(f"snapshot file {path} is refused: {problem}")
