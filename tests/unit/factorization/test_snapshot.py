"""Snapshots: an unbroken run and a resumed one are the same; what is not a snapshot of this training is refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.config import Model, Train
from lakefactor.errors import SnapshotError
from lakefactor.factorization import snapshot as snapshots
from lakefactor.factorization.fitting import Fit, Training, fit
from lakefactor.factorization.held_out import HeldOut
from lakefactor.factorization.shard import build_shard
from lakefactor.factorization.snapshot import MANIFEST, Place, file_name, find, read, write
from lakefactor.factorization.snapshot_folder import Folder
from lakefactor.testing.interactions import deal, random_interactions
from lakefactor.testing.threads import run_ranks
from lakefactor.types import SIDES

TABLE = random_interactions(40, 25, 400, seed=2)
MODEL = Model(rank=5)
EXPLICIT = Model(algorithm="explicit_als", rank=5, user_reg=1.0, item_reg=1.0)
TRAIN = Train(iterations=6, solver="cg")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(Folder(str(tmp_path / "_snapshots")), "20260101-000000-abcd", "identity")


def train(place: Place, size: int, model: Model, train: Train, every: int = 2, manifest=None) -> list[Fit]:
    parts = deal(TABLE, size)

    def on_rank(comm):
        held_out = HeldOut(0.5, train.stop_metric) if train.stop_metric else None
        batches = parts[comm.proc_rank]
        shard = build_shard(comm, held_out.split(batches) if held_out else batches)
        if held_out:
            held_out.prepare(comm, shard)

        def start(training: Training) -> None:
            if manifest is not None:
                read(place, manifest, comm.proc_rank, shard, training)

        def on_iteration(training: Training) -> None:
            if every and len(training.history) % every == 0:
                assert write(place, comm, shard, training) is None

        measure = (lambda algorithm: held_out.measure(comm, algorithm)) if held_out else None
        return fit(shard, comm, model, train, start=start, measure=measure, on_iteration=on_iteration)

    return run_ranks(size, on_rank)


def snapshot_at_4(place: Place, size: int = 2, model: Model = MODEL):
    train(place, size, model, TRAIN.model_copy(update={"iterations": 5}))
    manifest, problems = find(place)
    assert (manifest.iteration, problems) == (4, [])
    return manifest


@pytest.mark.parametrize("model", [MODEL, EXPLICIT], ids=["implicit", "explicit"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_resumed_run_ends_as_an_unbroken_one(place, model, size):
    unbroken = train(place, 2, model, TRAIN, every=0)
    resumed = train(place, size, model, TRAIN, every=0, manifest=snapshot_at_4(place, 2, model))
    found, expected = ([i.objective for i in fits[0].history] for fits in (resumed, unbroken))
    if size == 2:
        assert found == expected
        for ours, theirs in zip(resumed, unbroken, strict=True):
            for side in SIDES:
                np.testing.assert_array_equal(ours.factors[side], theirs.factors[side])
                np.testing.assert_array_equal(ours.bias[side], theirs.bias[side])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_best_state_is_kept_and_survives_a_resume(place):
    watched = TRAIN.model_copy(update={"iterations": 12, "stop_metric": "ndcg_at_5", "stop_patience": 3})
    unbroken = train(place, 2, MODEL, watched, every=1)
    metrics = [i.metric for i in unbroken[0].history]
    assert unbroken[0].kept == metrics.index(max(metrics)) + 1 == len(metrics) - 3
    upto_best = train(place, 2, MODEL, watched.model_copy(update={"iterations": unbroken[0].kept}), every=0)
    resumed = train(place, 2, MODEL, watched, every=0, manifest=snapshots.read_manifest(place, len(metrics) - 1))
    for fits in (resumed, upto_best):
        for ours, theirs in zip(fits, unbroken, strict=True):
            np.testing.assert_array_equal(ours.factors["user"], theirs.factors["user"])
            np.testing.assert_array_equal(ours.factors["item"], theirs.factors["item"])
            assert ours.objective == theirs.objective


def test_only_the_newest_two_stay_and_an_unfinished_one_is_none(place):
    train(place, 2, MODEL, TRAIN, every=1)
    assert sorted(place.folder.children(place.run)) == ["iteration-000005", "iteration-000006"]
    os.unlink(path(place, 6, MANIFEST))
    assert find(place)[0].iteration == 5
    assert list(snapshots.runs(place.folder, place.identity)) == [place.run]
    assert list(snapshots.runs(place.folder, "another")) == []
    snapshots.discard(place.folder, place.run)
    assert (find(place), place.folder.children("")) == ((None, []), [])


def path(place: Place, iteration: int, name: str) -> Path:
    return Path(place.folder.root, place.path(iteration, name))


def resumed_from_2(place: Place) -> None:
    """The damaged snapshot is passed over, the one before it goes on."""
    manifest, problems = find(place)
    assert manifest.iteration == 2
    assert len(problems) == 1


class Bomb:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["BOMB"])),)


def _pickle(place: Place) -> None:
    path(place, 4, MANIFEST).write_bytes(pickle.dumps(Bomb()))


def _truncated(place: Place) -> None:
    file = path(place, 4, MANIFEST)
    file.write_bytes(file.read_bytes()[:-20])


def _changed(place: Place) -> None:
    file = path(place, 4, MANIFEST)
    file.write_text(file.read_text().replace('"size": 2', '"size": 1'))


def _linked(place: Place) -> None:
    file = path(place, 4, MANIFEST)
    shutil.copy(file, file.parent.parent / "elsewhere")
    file.unlink()
    file.symlink_to(file.parent.parent / "elsewhere")


def _linked_data(place: Place) -> None:
    file = path(place, 4, file_name("user", 0, 2))
    file.rename(file.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent / "elsewhere")


def _gone(place: Place) -> None:
    path(place, 4, file_name("item", 1, 2)).unlink()


def _short(place: Place) -> None:
    file = path(place, 4, file_name("item", 1, 2))
    file.write_bytes(file.read_bytes()[:-1])


def _resealed(place: Place, **changes: object) -> None:
    manifest = find(place)[0]
    path(place, 4, MANIFEST).write_bytes(snapshots._sealed(manifest.model_copy(update=changes)))


def _foreign(place: Place) -> None:
    _resealed(place, identity="another configuration")


def _future(place: Place) -> None:
    _resealed(place, format=snapshots.FORMAT + 1)


def _escaping(place: Place) -> None:
    files = find(place)[0].files
    _resealed(place, files=[files[0].model_copy(update={"name": "../../secret.arrow"}), *files[1:]])


@pytest.mark.parametrize(
    "damage",
    [_pickle, _truncated, _changed, _linked, _linked_data, _gone, _short, _foreign, _future, _escaping],
    ids=lambda function: function.__name__.strip("_"),
)
def test_what_is_not_the_snapshot_that_was_written_is_passed_over(place, damage, tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "executed"))
    snapshot_at_4(place)
    damage(place)
    resumed_from_2(place)
    assert not (tmp_path / "executed").exists()


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _replace(place: Place, data: bytes) -> None:
    """Put a file in place of a rank's, and make the manifest vouch for it."""
    import hashlib

    file = path(place, 4, file_name("user", 0, 2))
    file.write_bytes(data)
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    files = find_unchecked(place).files
    _write_manifest(place, files=[files[0].model_copy(update=entry), *files[1:]])


def find_unchecked(place: Place):
    sealed = json.loads(path(place, 4, MANIFEST).read_text())
    sealed.pop("seal")
    return snapshots.Manifest.model_validate_json(json.dumps(sealed))


def _write_manifest(place: Place, **changes: object) -> None:
    path(place, 4, MANIFEST).write_bytes(snapshots._sealed(find_unchecked(place).model_copy(update=changes)))


def test_a_changed_bit_is_refused(place):
    manifest = snapshot_at_4(place)
    _flip(path(place, 4, file_name("user", 0, 2)))
    with pytest.raises(SnapshotError, match=r"user-00000-of-00002\.arrow is refused: its checksum does not match"):
        train(place, 2, MODEL, TRAIN, every=0, manifest=manifest)


def _arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: pickle.dumps(Bomb()), "cannot be read as Arrow"),
        (lambda: _arrow(pa.table({"id": ["u-1"], "factors": [1.0]})), "its columns are id string, factors double, not"),
        (lambda: _arrow(pa.table({"id": [1]})), "its columns are id int64"),
        (
            lambda: _arrow(pa.table({"id": ["u-1"], "factors": pa.array([[0.0] * 5], pa.list_(pa.float32(), 5))})),
            "user rows are in none of its files",
        ),
    ],
    ids=["pickle", "wrong type", "missing column", "missing rows"],
)
def test_a_vouched_for_file_is_still_checked(place, make, problem, tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "executed"))
    snapshot_at_4(place)
    _replace(place, make())
    manifest = find(place)[0]
    assert manifest.iteration == 4
    with pytest.raises(SnapshotError, match=problem):
        train(place, 2, MODEL, TRAIN, every=0, manifest=manifest)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "", "a//b", ".hidden", "a\nb"])
def test_no_path_leaves_the_folder(tmp_path, name):
    with pytest.raises(SnapshotError, match="not a plain path"):
        Folder(str(tmp_path)).read_bytes(name)


def test_a_full_disk_is_told_and_training_goes_on(place, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "writing", full)
    told = []
    parts = deal(TABLE, 2)

    def on_rank(comm):
        shard = build_shard(comm, parts[comm.proc_rank])
        return fit(shard, comm, MODEL, TRAIN,
                   on_iteration=lambda training: told.append(write(place, comm, shard, training)))  # fmt: skip

    assert len(run_ranks(2, on_rank)[0].history) == 6
    assert told == ["OSError: [Errno 28] No space left on device"] * 12
    assert find(place) == (None, [])
