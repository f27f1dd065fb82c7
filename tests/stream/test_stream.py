"""The stream through real queries: what it writes, what it refuses, and that a cut-off run ends as an unbroken one."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lakefactor.config import Config
from lakefactor.factorization.equation import Equation
from lakefactor.kernels import build_csr, gramian, reference
from lakefactor.pipelines import ingest, interactions, publish, recommend, stream, train
from lakefactor.pipelines.models import live_version, newest
from lakefactor.spark.live_factors import read_factors
from lakefactor.spark.tables import Tables

USERS, ITEMS, EVENTS = 40, 25, 500


def changed(config: Config, **sections: dict[str, object]) -> Config:
    parts = {name: getattr(config, name).model_copy(update=keys) for name, keys in sections.items()}
    return Config(**{**dict(config), **parts})


def lines(seed: int, n: int, users: int = USERS, items: int = ITEMS, first: int = 0) -> list[str]:
    """Draw events as CSV lines: time goes up by a minute."""
    rng = np.random.default_rng(seed)
    drawn = zip(rng.integers(users, size=n), (rng.power(2.0, n) * items).astype(int), strict=True)
    return [f"u{u:03d},i{i:03d},1,{1_700_000_000 + 60 * (first + t)}" for t, (u, i) in enumerate(drawn)]


def write(folder: Path, name: str, rows: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f".{name}").write_text("user,item,value,time\n" + "\n".join(rows) + "\n")
    (folder / f".{name}").rename(folder / name)


@pytest.fixture(scope="module")
def trained(spark, tmp_path_factory) -> Path:
    """A warehouse with a published model; tests copy it."""
    root = tmp_path_factory.mktemp("trained")
    config = settings(root / "warehouse", root / "landing")
    write(root, "history.csv", lines(0, EVENTS))
    ingest.run(spark, config, [str(root / "history.csv")])
    publish.run(spark, config, train.run(spark, config).model_version)
    recommend.run(spark, config)
    return root / "warehouse"


def settings(warehouse: Path, landing: Path, **keys: object) -> Config:
    return changed(
        Config(),
        tables={"root": str(warehouse)},
        model={"rank": 4, "alpha": 2.0, "user_reg": 0.5, "item_reg": 0.5, "reg_exponent": 0.0},
        train={"iterations": 5, "solver": "cholesky", "ranks": 2},
        publish={"require_evaluation": False, "beat_popularity": False},
        recommend={"n": 3, "similar_n": 3},
        stream={"source": "files", "path": str(landing), "fold_every": 0, **keys},
    )


@pytest.fixture
def place(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "warehouse")
    (tmp_path / "landing").mkdir()
    return tmp_path


def factors(spark, config: Config, side: str) -> dict[str, tuple]:
    tables = Tables(spark, config.tables)
    rows = read_factors(tables, side, live_version(tables)).collect()
    return {row[f"{side}_id"]: (tuple(row.factors), row.n_entries, row.batch_id) for row in rows}


def oracle_users(spark, config: Config, items: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Solve every user anew from its interactions, in float64, against items as they are."""
    interactions.run(spark, config)
    tables = Tables(spark, config.tables)
    pairs = [row for row in tables.read("interactions").collect() if row.item_id in items]
    users, names = sorted({row.user_id for row in pairs}), sorted(items)
    source = np.array([items[name][0] for name in names], np.float32)
    indptr, indices, strengths = build_csr(
        np.array([users.index(row.user_id) for row in pairs]),
        np.array([names.index(row.item_id) for row in pairs], np.int32),
        np.array([row.strength for row in pairs], np.float32),
        len(users),
    )
    equation = Equation(newest(tables, live_version(tables)).config.model)
    reg = equation.reg("user", np.diff(indptr), len(names)).astype(np.float64)
    x = reference.half_step(
        source, equation.a0 * gramian(source), indptr, indices, equation.weights(strengths),
        equation.targets(strengths), reg, reg, False,
    )[0]  # fmt: skip
    return dict(zip(users, x, strict=True))


def test_touched_users_are_solved_from_their_whole_history(spark, place):
    config = settings(place / "warehouse", place / "landing", item_rule="off")
    before, items = factors(spark, config, "user"), factors(spark, config, "item")
    new = [*lines(1, 40, users=10, first=EVENTS), "u900,i000,1,1700100000", "u900,i003,1,1700100001"]
    write(place / "landing", "1.csv", new)
    result = stream.run(spark, config, available_now=True)
    assert (result.batches, result.read, result.rejected) == (1, 42, 0)
    after = factors(spark, config, "user")
    touched = {line.split(",")[0] for line in new}
    assert set(after) == set(before) | {"u900"}
    assert {user for user in after if after[user][2] == 0} == touched
    assert {user: row for user, row in after.items() if user not in touched} == {
        user: row for user, row in before.items() if user not in touched
    }
    assert factors(spark, config, "item") == items
    expected = oracle_users(spark, config, items)
    for user in touched:
        np.testing.assert_allclose(after[user][0], expected[user], rtol=1e-5, atol=1e-6, err_msg=user)


class Struck(Exception):
    pass


BATCHES = (
    [*lines(2, 30, first=EVENTS), "u901,i001,1,1700100000", "u001,i901,1,1700100001", ",i001,1,1700100002"],
    [*lines(3, 30, first=EVENTS + 30), "u901,i901,1,1700100003", "u902,i902,1,1700100004", "u003,,1,1700100005"],
    [*lines(4, 30, first=EVENTS + 60), "u902,i001,1,1700100006", "u002,i002,x,1700100007"],
)
CLOCK = {"ingested_at", "rejected_at", "updated_at", "created_at", "started_at", "finished_at", "seconds"}
FOLDERS = {"source", "reject_id"}  # these depend on the folder of the test
TABLES = (
    "events", "rejects", "factor_updates", "user_factors", "item_factors", "stream_ledger", "recommendations",
    "similar_items",
)  # fmt: skip
RULES = {
    "exact": {"user_rule": "exact", "item_rule": "proximal", "fold_every": 2},
    "exact both": {"user_rule": "exact", "item_rule": "exact", "fold_every": 0},
    "optimizers": {"user_rule": "momentum", "item_rule": "adam", "fold_every": 2},
}
POINTS = ("rejects", "events", "factor_updates", "refresh", "stream_ledger", "fold")


def outcome(spark, config: Config) -> dict[str, list[str]]:
    """Return every row of every table that a stream writes, in order, without what the clock or the folder decides."""
    found = {}
    for name in TABLES:
        frame = Tables(spark, config.tables).read(name)
        kept = [column for column in frame.columns if column not in CLOCK | FOLDERS]
        found[name] = sorted(repr(row) for row in frame.select(*kept).collect())
    return found


def run_batches(spark, config: Config, place: Path, point: str = "") -> None:
    """Stream three files, one to a micro-batch; where a point is named, end at its second time, and start again."""
    for number, rows in enumerate(BATCHES):
        write(place / "landing", f"{number}.csv", rows)
    passed: list[str] = []

    def at(step: str) -> None:
        passed.append(step)
        if step == point and passed.count(step) == (1 if point == "fold" else 2):
            raise Struck(step)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stream, "MicroBatches", partial(stream.MicroBatches, at=at))
        if point:
            with pytest.raises(Struck):
                stream.run(spark, config, available_now=True)
        stream.run(spark, config, available_now=True)
    assert {*POINTS} - ({"fold"} if not config.stream.fold_every else set()) <= {*passed}


@pytest.fixture(scope="module")
def unbroken(spark, trained, tmp_path_factory):
    """The outcome of a run that nothing cut off, by rules."""
    made: dict[str, dict[str, list[str]]] = {}

    def outcome_of(rules: str) -> dict[str, list[str]]:
        if rules not in made:
            place = tmp_path_factory.mktemp("unbroken")
            shutil.copytree(trained, place / "warehouse")
            config = settings(place / "warehouse", place / "landing", max_rows=1, **RULES[rules])
            run_batches(spark, config, place)
            made[rules] = outcome(spark, config)
        return made[rules]

    return outcome_of


@pytest.mark.parametrize(
    ("rules", "point"),
    [
        *(("exact", point) for point in POINTS),
        ("optimizers", "factor_updates"),
        ("optimizers", "fold"),
        ("exact both", "events"),
    ],
)
def test_a_run_cut_off_after_any_commit_ends_as_an_unbroken_one(spark, place, unbroken, rules, point):
    config = settings(place / "warehouse", place / "landing", max_rows=1, **RULES[rules])
    run_batches(spark, config, place, point)
    expected, found = unbroken(rules), outcome(spark, config)
    for table in TABLES:
        assert found[table] == expected[table], table
