"""evaluate, publish and recommend on data whose right answer is known."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.config import Config
from lakefactor.errors import GateRefusedError, InputError, TableError, UnknownIdError
from lakefactor.pipelines import compare, evaluate, publish, recommend, train
from lakefactor.spark.splits import folds
from lakefactor.testing.tables import taste_groups, write_interactions

GROUPS = taste_groups()


def updated(config: Config, **sections: dict[str, object]) -> Config:
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=keys) for name, keys in sections.items()}
    )


def settings(root: str) -> Config:
    return updated(
        Config(),
        tables={"root": root},
        model={"rank": 4, "alpha": 5.0, "user_reg": 1.0, "item_reg": 1.0},
        train={"iterations": 6, "solver": "cholesky"},
        evaluate={"split": "random_holdout", "holdout_fraction": 0.25, "ks": (1, 3)},
        publish={"metric": "ndcg_at_3"},
        recommend={"n": 2, "similar_n": 7},
    )


@pytest.fixture
def small(tmp_path) -> Config:
    return settings(str(tmp_path / "warehouse"))


def timed(table: pa.Table) -> pa.Table:
    """Give interaction n the n-th hour."""
    start = dt.datetime(2025, 1, 1, tzinfo=dt.timezone.utc)
    times = [start + dt.timedelta(hours=n) for n in range(table.num_rows)]
    return table.append_column("last_event_time", pa.array(times, pa.timestamp("us", tz="UTC")))


@pytest.fixture(scope="module")
def trained(spark, tmp_path_factory):
    """(configuration, tables, model version) of one training that several tests read; they write no interactions."""
    small = settings(str(tmp_path_factory.mktemp("trained")))
    tables = write_interactions(spark, small, timed(GROUPS))
    return small, tables, train.run(spark, small).model_version


def test_recommends_the_rest_of_the_users_group(spark, trained):
    small, tables, version = trained
    result = recommend.run(spark, small, version)
    known = set(zip(GROUPS["user_id"].to_pylist(), GROUPS["item_id"].to_pylist(), strict=True))
    rows = tables.read("recommendations").orderBy("user_id", "position").collect()
    assert result.recommendations == len(rows) == 60 * 2
    for user in range(60):
        own = [row for row in rows if row.user_id == f"u{user:03d}"]
        assert [row.position for row in own] == [1, 2]
        assert own[0].score >= own[1].score
        assert all((row.user_id, row.item_id) not in known for row in own)
        assert [int(row.item_id[1:]) % 3 for row in own] == [user % 3] * 2


def test_similar_items_are_the_rest_of_the_group_by_cosine(spark, trained):
    small, tables, version = trained
    recommend.run(spark, small, version)
    factors = {row.item_id: np.array(row.factors) for row in tables.read("item_factors").collect()}
    rows = tables.read("similar_items").orderBy("item_id", "position").collect()
    assert len(rows) == 24 * 7
    for row in rows:
        one, two = factors[row.item_id], factors[row.similar_item_id]
        assert row.similarity == pytest.approx(one @ two / np.linalg.norm(one) / np.linalg.norm(two), abs=1e-5)
        assert int(row.item_id[1:]) % 3 == int(row.similar_item_id[1:]) % 3
        assert row.item_id != row.similar_item_id


def test_recommending_again_changes_nothing_and_subsets_leave_the_rest(spark, trained):
    small, tables, version = trained
    columns = ("user_id", "position", "item_id", "score")

    def rows():
        return sorted(tuple(row) for row in tables.read("recommendations").select(*columns).collect())

    recommend.run(spark, small, version)
    first = rows()
    recommend.run(spark, small, version)
    assert rows() == first
    recommend.run(spark, updated(small, recommend={"users": ("u003", "u004"), "n": 1, "similar_n": 0}), version)
    expected = [row for row in first if row[0] not in ("u003", "u004") or row[1] == 1]
    after = rows()
    assert [row[:3] for row in after] == [row[:3] for row in expected]
    # A matrix product over fewer users may add up in another order.
    np.testing.assert_allclose([row[3] for row in after], [row[3] for row in expected], rtol=1e-6)


def test_allow_and_deny_lists_and_seen_items(spark, trained):
    small, tables, version = trained

    def items(**keys):
        recommend.run(spark, updated(small, recommend={"n": 24, "similar_n": 0, "users": ("u000",)} | keys), version)
        rows = tables.read("recommendations").where("user_id = 'u000'").orderBy("position").collect()
        return [row.item_id for row in rows]

    everything = {f"i{item:03d}" for item in range(24)}
    known = {
        i for u, i in zip(GROUPS["user_id"].to_pylist(), GROUPS["item_id"].to_pylist(), strict=True) if u == "u000"
    }
    assert set(items()) == everything - known
    assert set(items(exclude_seen=False)) == everything
    assert set(items(allow_items=("i001", "i002", "i003"))) == {"i001", "i002", "i003"} - known
    assert set(items(deny_items=("i001", "i002"))) == everything - known - {"i001", "i002"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"users": ("u000", "it's; DROP TABLE x")}, "recommend.users: 1 users are not in model version .*DROP TABLE"),
        ({"allow_items": ("nothing",)}, "recommend.allow_items: 1 items are not in the model, the first is 'nothing'"),
        ({"deny_items": ("nothing",)}, "recommend.deny_items: 1 items are not in the model, the first is 'nothing'"),
    ],
)
def test_unknown_ids_are_refused_by_name(spark, trained, keys, message):
    small, _, version = trained
    with pytest.raises(UnknownIdError, match=message):
        recommend.run(spark, updated(small, recommend=keys), version)


def test_ids_with_quotes_and_backslashes_can_be_chosen(spark, small):
    strange = 'it\'s \\ "x" `y` 日本'
    table = pa.table({"user_id": [strange, "bob"], "item_id": ["x", "y"], "strength": [1.0, 1.0]})
    tables = write_interactions(spark, small, table)
    version = train.run(spark, small).model_version
    for _ in range(2):
        recommend.run(spark, updated(small, recommend={"users": (strange,), "similar_n": 0}), version)
    assert [tuple(r) for r in tables.read("recommendations").select("user_id", "item_id").collect()] == [(strange, "y")]


def test_publish_gate_flip_and_rollback(spark, small):
    tables = write_interactions(spark, small, GROUPS)
    first = train.run(spark, small).model_version
    with pytest.raises(GateRefusedError, match=f"{first} was not published: it has no evaluation with ndcg_at_3"):
        publish.run(spark, small)
    evaluated = evaluate.run(spark, small)
    assert evaluated.model_version == first
    assert evaluated.metrics["model"]["ndcg_at_3"] > evaluated.metrics["popularity"]["ndcg_at_3"]
    published = publish.run(spark, small)
    assert (published.model_version, published.previous_version, published.action) == (first, None, "publish")

    # A model that cannot tell the groups apart is worse than the live one: refused, recorded, nothing flipped.
    poor = updated(small, model={"rank": 1, "alpha": 0.01, "user_reg": 100.0, "item_reg": 100.0})
    second = train.run(spark, poor).model_version
    evaluate.run(spark, poor, second)
    with pytest.raises(GateRefusedError, match=f"{second} was not published"):
        publish.run(spark, poor)
    assert [row.model_version for row in tables.read("live_model").collect()] == [first]

    third = train.run(spark, small, fresh=True).model_version
    evaluated = evaluate.run(spark, small, third)
    assert publish.run(spark, small).previous_version == first
    again = evaluate.run(spark, small, third), publish.run(spark, small)  # as a scheduler may run them
    assert again[0] == evaluated
    assert tables.read("evaluations").where(f"model_version = '{third}'").select("evaluated_at").distinct().count() == 1
    assert (again[1].model_version, again[1].action) == (third, "keep")
    back = publish.run(spark, small, rollback=True)
    assert (back.model_version, back.previous_version, back.action) == (first, third, "rollback")
    (live,) = tables.read("live_model").collect()
    assert (live.name, live.model_version, live.previous_version) == ("default", first, third)
    decided = tables.read("decisions").orderBy("decided_at").select("model_version", "action").collect()
    assert [tuple(row) for row in decided] == [
        (first, "refuse"),
        (first, "publish"),
        (second, "refuse"),
        (third, "publish"),
        (first, "rollback"),
    ]
    assert recommend.run(spark, small).model_version == first


def test_a_comparison_sees_who_gains_and_who_loses(spark, small):
    """A model that cannot tell the groups apart is worse for everyone; one beside itself is neither."""
    tables = write_interactions(spark, small, GROUPS)
    good = train.run(spark, small).model_version
    poor = train.run(spark, updated(small, model={"rank": 1, "alpha": 0.01, "user_reg": 100.0, "item_reg": 100.0}))
    found = compare.run(spark, small, good, poor.model_version)
    rows = {(row.segment, row.metric): row for row in found.differences}
    whole = rows["all", "ndcg_at_3"]
    assert (whole.verdict, whole.champion > whole.challenger) == ("worse", True)
    assert whole.low < whole.challenger - whole.champion < whole.high < 0
    assert rows["all", "coverage_at_3"].verdict == ""
    assert {segment for segment, _ in rows} >= {"all", "light_users", "popular_items", "tail_items"}
    figures = evaluate.run(spark, small, good).metrics["model"]
    assert {name: rows["all", name].champion for name in figures} == pytest.approx(figures)

    same = compare.run(spark, small, good, good)
    assert {row.verdict for row in same.differences} <= {"unclear", ""}
    assert all(row.low in (0.0, None) and row.high in (0.0, None) for row in same.differences)
    alone = compare.run(spark, small)
    assert (alone.champion, alone.challenger, alone.differences) == (None, poor.model_version, [])
    assert tables.read("evaluations").select("evaluation_id").distinct().count() == 2


def test_nothing_to_roll_back_to(spark, small):
    write_interactions(spark, small, GROUPS)
    train.run(spark, small)
    with pytest.raises(TableError, match="there is no version to go back to"):
        publish.run(spark, small, rollback=True)
    with pytest.raises(TableError, match="no model is published"):
        recommend.run(spark, small)
    with pytest.raises(TableError, match="models does not hold model version 'nonsense'"):
        publish.run(spark, small, "nonsense")


def pairs(frame) -> set[tuple[str, str]]:
    return {(row.user_id, row.item_id) for row in frame.select("user_id", "item_id").collect()}


ALL = set(zip(GROUPS["user_id"].to_pylist(), GROUPS["item_id"].to_pylist(), strict=True))


@pytest.mark.parametrize("split", ["k_fold", "random_holdout", "leave_last_out", "global_time", "user_holdout"])
def test_a_split_parts_every_interaction(spark, trained, split):
    small, tables, _ = trained
    settings = small.evaluate.model_copy(update={"split": split})
    tested = []
    for fold in folds(tables.read("interactions"), settings):
        train_part, known, test = pairs(fold.train), pairs(fold.known), pairs(fold.test)
        assert test
        assert not train_part & test
        assert not known & test
        assert train_part | known | test == ALL
        if fold.fold_in:
            assert not {user for user, _ in train_part} & {user for user, _ in test}
            assert {user for user, _ in known} >= {user for user, _ in test}
        tested.append(test)
    if split == "k_fold":
        assert set().union(*tested) == ALL
        assert sum(map(len, tested)) == len(ALL)


def test_leave_last_out_holds_out_the_newest_of_each_user(spark, trained):
    small, tables, _ = trained
    (fold,) = folds(tables.read("interactions"), small.evaluate.model_copy(update={"split": "leave_last_out"}))
    newest = dict(zip(GROUPS["user_id"].to_pylist(), GROUPS["item_id"].to_pylist(), strict=True))
    assert pairs(fold.test) == set(newest.items())


def test_global_time_holds_out_the_newest_share(spark, trained):
    small, tables, _ = trained
    settings = small.evaluate.model_copy(update={"split": "global_time", "holdout_fraction": 0.25})
    (fold,) = folds(tables.read("interactions"), settings)
    rows = list(zip(GROUPS["user_id"].to_pylist(), GROUPS["item_id"].to_pylist(), strict=True))
    held_out = pairs(fold.test)
    assert held_out == set(rows[-len(held_out) :])
    assert abs(len(held_out) - 0.25 * len(rows)) <= 1  # the cut is an approximate percentile


def test_random_holdout_takes_the_share_of_each_user(spark, trained):
    small, tables, _ = trained
    settings = small.evaluate.model_copy(update={"split": "random_holdout", "holdout_fraction": 0.25})
    (fold,) = folds(tables.read("interactions"), settings)
    sizes = {row.user_id: row["count"] for row in tables.read("interactions").groupBy("user_id").count().collect()}
    held = {row.user_id: row["count"] for row in fold.test.groupBy("user_id").count().collect()}
    assert held == {user: int(size * 0.25 + 0.5) for user, size in sizes.items()}


def test_time_splits_need_times(spark, small):
    tables = write_interactions(spark, small, GROUPS)
    for split in ("leave_last_out", "global_time"):
        with pytest.raises(InputError, match=f"evaluate.split is {split}, but the interactions have no event times"):
            list(folds(tables.read("interactions"), small.evaluate.model_copy(update={"split": split})))


def test_held_out_users_are_folded_in(spark, small):
    """Users that the training never saw get their own group's items first."""
    write_interactions(spark, small, GROUPS)
    config = updated(small, evaluate={"split": "user_holdout", "holdout_fraction": 0.3})
    train.run(spark, config)
    metrics = evaluate.run(spark, config).metrics
    assert metrics["model"]["hit_rate_at_3"] > 0.9
    assert metrics["model"]["auc"] > 0.95


def test_evaluation_of_a_known_case(spark, small):
    """Each user holds out one of two items; popularity's metrics follow from the counts by hand.

    x is known to 3 users, y to 2, z to 1; every user's newest item is held out. ann: x | y, bob: x | z, cid: y | x.
    Training counts: x 2 (ann, bob), y 1 (cid); z is outside the catalogue. Unseen by ann: y (hit); by bob: y (miss,
    z cannot be ranked); by cid: x (hit).
    """
    rows = [("ann", "x", 1), ("ann", "y", 2), ("bob", "x", 3), ("bob", "z", 4), ("cid", "y", 5), ("cid", "x", 6)]
    users, items, hours = zip(*rows, strict=True)
    start = dt.datetime(2025, 1, 1, tzinfo=dt.timezone.utc)
    times = pa.array([start + dt.timedelta(hours=h) for h in hours], pa.timestamp("us", tz="UTC"))
    table = pa.table({"user_id": users, "item_id": items, "strength": [1.0] * 6, "last_event_time": times})
    config = updated(
        small, model={"rank": 1}, evaluate={"split": "leave_last_out", "ks": (1, 2)}, publish={"metric": "ndcg_at_2"}
    )
    tables = write_interactions(spark, config, table)
    train.run(spark, config)
    metrics = evaluate.run(spark, config).metrics["popularity"]
    expected = {
        "precision_at_1": 2 / 3, "precision_at_2": 1 / 3, "recall_at_1": 2 / 3, "recall_at_2": 2 / 3,
        "hit_rate_at_1": 2 / 3, "ndcg_at_1": 2 / 3, "ndcg_at_2": 2 / 3, "map_at_2": 2 / 3, "mrr_at_2": 2 / 3,
        "coverage_at_1": 1.0, "mean_popularity_at_1": (1 + 1 + 2) / 3,
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    stored = tables.read("evaluations").where("recommender = 'popularity' and fold = -1 and segment = 'all'").collect()
    assert {(r.metric, r.k): r.value for r in stored if r.metric == "ndcg"} == pytest.approx(
        {("ndcg", 1): 2 / 3, ("ndcg", 2): 2 / 3}
    )


def test_explicit_errors_are_the_definition(spark, small):
    """RMSE and MAE of the table's own factors on the held-out ratings, recomputed in numpy."""
    config = updated(
        small,
        model={"algorithm": "explicit_als", "rank": 3},
        evaluate={"split": "k_fold", "folds": 2},
    )
    tables = write_interactions(spark, config, GROUPS)
    train.run(spark, config)
    metrics = evaluate.run(spark, config).metrics
    baseline = []
    for fold in folds(tables.read("interactions"), config.evaluate):
        train_rows, test_rows = fold.train.collect(), fold.test.collect()
        mean = np.mean([row.strength for row in train_rows])
        of_item: dict[str, list[float]] = {}
        for row in train_rows:
            of_item.setdefault(row.item_id, []).append(row.strength)
        errors = np.array([row.strength - np.mean(of_item.get(row.item_id, [mean])) for row in test_rows])
        baseline.append((np.sqrt(np.mean(errors**2)), np.mean(np.abs(errors))))
    assert metrics["popularity"]["rmse"] == pytest.approx(np.mean([rmse for rmse, _ in baseline]), rel=1e-5)
    assert metrics["popularity"]["mae"] == pytest.approx(np.mean([mae for _, mae in baseline]), rel=1e-5)
    assert 0 < metrics["model"]["rmse"] < 2
