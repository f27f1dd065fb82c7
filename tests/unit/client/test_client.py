"""The client against a float64 oracle, over tables that delta-rs wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lakefactor.client import Client
from lakefactor.config import Config, Recommend, canonical_json, changed
from lakefactor.errors import InputError, TableError, UnknownIdError
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.strengths import Span

WriteTable = Callable[..., None]
LIVE, OTHER = "20261120-080000-aaaa", "20261122-090000-bbbb"
RANK, N_USERS = 4, 5
ITEMS = [f"i{n}" for n in range(12)]
USERS = [f"u{n}" for n in range(N_USERS)]
MEAN = 3.25
SPAN = Span(frozenset({"view"}), None, None)


def settings(algorithm: str) -> Config:
    keys = {"algorithm": algorithm, "rank": RANK, "alpha": 2.0, "user_reg": 0.5, "item_reg": 0.5, "bias_reg": 0.25}
    return changed(Config(), {f"model.{name}": value for name, value in keys.items()})


class House:
    """A warehouse with one live model: user n has viewed the items n, n + 1 and 2 n; u0's event of i1 was deleted."""

    def __init__(self, write: WriteTable, root: Path, algorithm: str, long_ids: bool = False) -> None:
        self.config, random = settings(algorithm), np.random.default_rng(7)
        self.equation = Equation(self.config.model, MEAN if algorithm == "explicit_als" else 0.0)
        self.biased, self.mean = self.equation.biased, self.equation.mean
        self.items = random.normal(size=(len(ITEMS), RANK)).astype(np.float32)
        self.item_bias = (self.biased * random.normal(size=len(ITEMS))).astype(np.float32)
        self.n_entries = random.permutation(len(ITEMS))
        self.seen = {n: sorted({n, n + 1, 2 * n}) for n in range(N_USERS)}
        self.strengths = {(n, i): 1.0 + (n + i) % 4 for n in self.seen for i in self.seen[n]}
        self.ids = {"user": list(range(100, 100 + N_USERS)), "item": [2**40 + n for n in range(len(ITEMS))]}
        if not long_ids:
            self.ids = {"user": USERS, "item": ITEMS}
        self.users = {n: self.solve(n, self.seen[n]) for n in self.seen}
        kind = "long" if long_ids else "string"

        def put(table, rows):
            write(table, rows, ids=kind)

        put("live_model", [{"name": "default", "model_version": LIVE}])
        made_from = json.dumps({"events": "x", "events_version": 0, "span": SPAN.record()})
        config = canonical_json(self.config)
        row = {"config": config, "mean": self.mean, "n_users": N_USERS, "made_from": made_from, "removed_at": None}
        put("models", [{"model_version": version, **row} for version in (LIVE, OTHER)])
        put("user_factors", [self.user_row(n) for n in self.seen])
        put(
            "item_factors",
            [
                {"model_version": version, "item_id": self.ids["item"][i], "factors": sign * y, "bias": bias,
                 "n_entries": int(count), "batch_id": -1}
                for version, sign in ((LIVE, 1), (OTHER, -1))
                for i, (y, bias, count) in enumerate(zip(self.items, self.item_bias, self.n_entries, strict=True))
            ],
        )  # fmt: skip
        events = [(n, i, "view", value) for (n, i), value in self.strengths.items()]
        events += [(0, 5, "view", 1.0), (0, 5, "delete", 1.0)]
        put(
            "events",
            [
                {"event_id": bytes([*b"event-number-", number // 100, number // 10 % 10, number % 10]), "source": "x",
                 "user_id": self.ids["user"][n], "item_id": self.ids["item"][i], "event_type": kind, "value": value,
                 "event_time": None}
                for number, (n, i, kind, value) in enumerate(events)
            ],
        )  # fmt: skip
        self.client = Client(str(root))

    def user_row(self, n: int) -> dict[str, object]:
        factors, bias = self.users[n]
        user = self.ids["user"][n]
        return {"model_version": LIVE, "user_id": user, "factors": factors, "bias": bias, "batch_id": -1}

    def solve(self, n: int, items: list[int], strength: float | None = None) -> tuple[np.ndarray, float]:
        """Return factors and bias of a user with some items, by numpy in float64, rounded as a table holds them."""
        y = self.items.astype(np.float64)
        s = np.array([strength or self.strengths[n, i] for i in items])
        reg = self.equation.reg("user", np.array([len(items)]), len(ITEMS))[0]
        if self.biased:
            design = np.column_stack([y[items], np.ones(len(items))])
            ridge = np.diag([reg] * RANK + [self.equation.bias_reg("user", np.array([len(items)]), len(ITEMS))[0]])
            x = np.linalg.solve(design.T @ design + ridge, design.T @ (s - MEAN - self.item_bias[items]))
            return x[:RANK].astype(np.float32), float(np.float32(x[RANK]))
        matrix = y.T @ y + (y[items].T * (2.0 * s)) @ y[items] + reg * np.eye(RANK)
        return np.linalg.solve(matrix, y[items].T @ (1 + 2.0 * s)).astype(np.float32), 0.0

    def scores(self, user: tuple[np.ndarray, float]) -> np.ndarray:
        x, bias = user
        dots = self.items.astype(np.float64) @ x.astype(np.float64)
        return (dots + (bias + self.mean) + self.item_bias).astype(np.float32)

    def best(self, user: tuple[np.ndarray, float], n: int, left_out: list[int] = ()) -> list[dict[str, object]]:
        scores = self.scores(user)
        order = [i for i in np.argsort(-scores, kind="stable") if i not in left_out][:n]
        return self.listed(order, score=scores)

    def listed(self, order: list[int], **columns: np.ndarray) -> list[dict[str, object]]:
        return [
            {"position": place, "item_id": self.ids["item"][i]}
            | {name: pytest.approx(float(column[i]), 1e-5) for name, column in columns.items()}
            for place, i in enumerate(order, start=1)
        ]


@pytest.fixture(params=["implicit_als", "explicit_als"])
def house(request, write: WriteTable, root: Path) -> House:
    return House(write, root, request.param)


@pytest.fixture
def implicit(write: WriteTable, root: Path) -> House:
    return House(write, root, "implicit_als")


def test_recommends_the_best_of_what_the_user_has_not_seen(house):
    for n, user in enumerate(USERS):
        answer = house.client.recommend(user, 3)
        assert answer.to_pylist() == house.best(house.users[n], 3, house.seen[n])
        assert (answer.model_version, answer.batch_id, answer.basis) == (LIVE, -1, "user")
    everything = house.client.recommend("u2", 99, exclude_seen=False).to_pylist()
    assert everything == house.best(house.users[2], 99)


def test_an_event_that_was_deleted_is_not_seen(house):
    listed = house.client.recommend("u0", 99).to_pylist()
    assert "i5" in [row["item_id"] for row in listed]
    assert len(listed) == len(ITEMS) - len(house.seen[0])


def test_rules_of_the_moment(house):
    allowed = house.client.recommend("u1", 99, allow=["i4", "i1", "i7"], deny=["i7"]).to_pylist()
    assert [row["item_id"] for row in allowed] == ["i4"]  # i1 is seen


def test_categories_and_the_rules_of_a_configuration(house, write, root):
    kinds = {item: "abc"[n % 3] for n, item in enumerate(ITEMS[:-1])}
    write("items", [{"item_id": item, "category": kind} for item, kind in kinds.items()])
    client = Client(str(root))
    listed = client.recommend("u1", 99, categories=["b"]).to_pylist()
    assert [row["item_id"] for row in listed] == [
        row["item_id"] for row in client.recommend("u1", 99).to_pylist() if kinds.get(row["item_id"]) == "b"
    ]
    capped = client.recommend("u1", 99, rules=Recommend(max_per_category=1)).to_pylist()
    assert sorted(kinds.get(row["item_id"], "") for row in capped) == ["", "a", "b", "c"]
    segment = client.recommend("u77", 2, categories=["c"], unknown="popular")
    order = sorted((i for i in range(len(ITEMS) - 1) if i % 3 == 2), key=lambda i: -house.n_entries[i])[:2]
    assert segment.to_pylist() == house.listed(order, score=house.n_entries)
    assert segment.basis == "category"
    with pytest.raises(UnknownIdError, match="no item is of category 'z'"):
        client.recommend("u1", categories=["z"])


def test_without_an_item_it_is_as_if_the_user_had_never_met_it(house):
    row = house.solve(3, [3, 6])
    assert house.client.recommend("u3", 4, without=["i4"]).to_pylist() == house.best(row, 4, [3, 4, 6])


def test_whoever_has_interacted_with_some_items_gets_a_fold_in(house):
    stranger = house.solve(0, [2, 9], strength=4.0)
    answer = house.client.recommend(items={"i9": 4, "i2": 4.0}, n=5)
    assert answer.to_pylist() == house.best(stranger, 5, [2, 9])
    assert answer.basis == "items"
    factors, bias = house.client.fold_in({"i2": 4.0, "i9": 4.0})
    np.testing.assert_allclose(np.append(factors, bias), np.append(*stranger), rtol=1e-5, atol=1e-6)


def test_a_fold_in_of_a_known_user_is_the_user(house):
    for n in house.seen:
        factors, bias = house.client.fold_in({ITEMS[i]: house.strengths[n, i] for i in house.seen[n]})
        np.testing.assert_allclose(np.append(factors, bias), np.append(*house.users[n]), rtol=1e-5, atol=1e-6)


def test_ratings_must_be_given_to_a_model_of_ratings(write, root):
    client = House(write, root, "explicit_als").client
    with pytest.raises(InputError, match="give each item with its rating"):
        client.recommend(items=["i1"])


def test_items_without_a_strength_count_as_one(implicit):
    stranger = implicit.solve(0, [2, 9], strength=1.0)
    assert implicit.client.recommend(items=["i2", "i9"], n=3).to_pylist() == implicit.best(stranger, 3, [2, 9])


def test_of_an_unknown_user_it_says_so_or_answers_by_popularity(house):
    with pytest.raises(UnknownIdError, match="user 'u77' is not in user_factors of model version"):
        house.client.recommend("u77")
    answer = house.client.recommend("u77", 3, unknown="popular", deny=["i0"])
    order = [i for i in np.argsort(-house.n_entries, kind="stable") if i != 0][:3]
    assert answer.to_pylist() == house.listed(order, score=house.n_entries)
    assert answer.basis == "popular"
    assert house.client.recommend("u1", 3, unknown="popular").basis == "user"
    assert house.client.popular(2).to_pylist() == house.listed(np.argsort(-house.n_entries)[:2], score=house.n_entries)


def test_scores_are_in_the_order_of_the_items(house):
    scores = house.scores(house.users[4])
    rows = house.client.score("u4", ["i8", "i0", "i8"]).to_pylist()
    assert rows == [{"item_id": ITEMS[i], "score": pytest.approx(float(scores[i]), 1e-6)} for i in (8, 0, 8)]


def test_similar_items_and_users_by_cosine(house):
    def similar(rows: np.ndarray, own: int) -> list[tuple[int, float]]:
        unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        cosines = unit @ unit[own]
        return [(i, pytest.approx(cosines[i], 1e-6)) for i in np.argsort(-cosines, kind="stable") if i != own]

    expected = similar(house.items, 3)
    found = house.client.similar_items("i3", 99).to_pylist()
    assert [(row["item_id"], row["similarity"]) for row in found] == [(ITEMS[i], value) for i, value in expected]
    expected = similar(np.array([house.users[n][0] for n in range(N_USERS)]), 2)
    found = house.client.similar_users("u2", 2).to_pylist()
    assert [(row["user_id"], row["similarity"]) for row in found] == [(USERS[i], value) for i, value in expected[:2]]
    assert [row["position"] for row in found] == [1, 2]


def test_an_explanation_sums_to_the_score(house):
    for n, user in enumerate(USERS):
        for i, item in enumerate(ITEMS):
            why = house.client.explain(user, item)
            rows = why.to_pylist()
            assert {row["item_id"]: row["strength"] for row in rows} == {
                ITEMS[j]: house.strengths[n, j] for j in house.seen[n]
            }
            assert [row["contribution"] for row in rows] == sorted((row["contribution"] for row in rows), reverse=True)
            expected = pytest.approx(float(house.scores(house.users[n])[i]), rel=1e-5, abs=1e-6)
            assert why.score == pytest.approx(why.base + sum(row["contribution"] for row in rows))
            assert (why.score, why.stored_score) == (expected, expected)


def test_an_explanation_without_an_item_is_that_of_who_never_met_it(house):
    why = house.client.explain("u3", "i9", without=["i6"])
    assert {row["item_id"] for row in why.to_pylist()} == {"i3", "i4"}
    assert why.score == pytest.approx(float(house.scores(house.solve(3, [3, 4]))[9]), rel=1e-5)
    anyone = house.client.explain(None, "i9", items={ITEMS[i]: house.strengths[3, i] for i in (3, 4)})
    assert (anyone.score, anyone.stored_score, anyone.basis) == (pytest.approx(why.score), None, "items")


def test_what_the_model_has_yet_to_learn_shows_beside_the_score(house, write):
    new = {"event_id": b"0123456789abcdef", "user_id": "u1", "item_id": "i9", "event_type": "view", "value": 4.0}
    write("events", [new | {"event_time": None}])
    why = house.client.explain("u1", "i0")
    assert {row["item_id"] for row in why.to_pylist()} == {"i1", "i2", "i9"}
    assert why.stored_score == pytest.approx(float(house.scores(house.users[1])[0]), rel=1e-5)
    assert why.score != pytest.approx(why.stored_score, rel=1e-3)


def test_surprising_items_are_known_ones_that_score_lowest(house):
    scores = house.scores(house.users[3])
    order = sorted(house.seen[3], key=lambda i: scores[i])[:2]
    strengths = np.array([house.strengths.get((3, i), 0) for i in range(len(ITEMS))])
    assert house.client.surprising("u3", 2).to_pylist() == house.listed(order, strength=strengths, score=scores)


def test_representative_items_do_not_depend_on_how_the_factors_are_turned(house, write, root):
    rows = house.items.astype(np.float64) * np.sqrt(house.n_entries)[:, None]
    chosen = []
    for _ in range(RANK):  # Gram-Schmidt, the longest remainder first
        chosen.append(int(np.argmax(np.linalg.norm(rows, axis=1))))
        unit = rows[chosen[-1]] / np.linalg.norm(rows[chosen[-1]])
        rows = rows - np.outer(rows @ unit, unit)
    assert house.client.representative(99).to_pylist() == house.listed(chosen)


def test_the_stream_is_followed_by_a_refresh(house, write):
    update = {"model_version": LIVE, "batch_id": 3, "side": "item", "item_id": "i3", "bias": 0.0, "n_entries": 9}
    write("factor_updates", [update | {"factors": [1.0, 2.0, 3.0, 4.0], "user_id": None, "optimizer_state": None}])
    before = house.client.similar_items("i0", 99)
    assert before.batch_id == -1
    house.client.refresh()
    house.items[3] = [1, 2, 3, 4]
    y = house.items.astype(np.float64)
    after = house.client.similar_items("i3", 1)
    cosines = y @ y[3] / np.linalg.norm(y, axis=1) / np.linalg.norm(y[3])
    assert (after.batch_id, after.to_pylist()[0]["item_id"]) == (3, ITEMS[np.argsort(-cosines)[1]])


def test_another_version_by_name(house, root):
    other = Client(str(root), OTHER)
    assert other.model_version == OTHER
    assert other.similar_items("i0", 3).to_pylist() == house.client.similar_items("i0", 3).to_pylist()
    with pytest.raises(UnknownIdError, match="is not in user_factors of model version"):
        other.recommend("u1")
    with pytest.raises(UnknownIdError, match="did you mean"):
        Client(str(root), LIVE[:-1])


def test_integer_ids(write, root):
    house = House(write, root, "implicit_als", long_ids=True)
    assert house.client.recommend("102", 3).to_pylist() == house.best(house.users[2], 3, house.seen[2])
    assert house.client.recommend(102, 1, allow=[2**40 + 9]).to_pylist()[0]["item_id"] == 2**40 + 9
    with pytest.raises(InputError, match="64-bit integer"):
        house.client.recommend("u2")


def test_mistakes_are_named(house):
    for mistake, said in (
        (lambda: house.client.recommend("u1", 0), "n is 0; give 1 or more"),
        (lambda: house.client.recommend("u1", items=["i1"]), "give one of the two"),
        (lambda: house.client.fold_in({"i1": float("nan")}), "strength of item 'i1' is nan"),
    ):
        with pytest.raises(InputError, match=said):
            mistake()
    with pytest.raises(UnknownIdError, match="item 'i99' is not in item_factors"):
        house.client.recommend("u1", deny=["i1", "i99"])


def test_where_nothing_is_published_it_says_what_publishes(root):
    with pytest.raises(TableError, match="lakefactor publish"):
        Client(str(root))


def test_answers_as_frames(implicit):
    answer = implicit.client.recommend("u1", 2)
    assert answer.to_pandas()["item_id"].to_list() == answer.rows["item_id"].to_pylist()
    pytest.importorskip("polars")
    assert answer.to_polars()["item_id"].to_list() == answer.rows["item_id"].to_pylist()


def test_it_needs_neither_spark_nor_torch(implicit, root):
    program = (
        "import sys; from lakefactor.client import Client; client = Client(sys.argv[1]);"
        "client.recommend('u1'); client.explain('u1', 'i5'); client.similar_users('u1');"
        "print(sorted({'pyspark', 'torch', 'delta', 'py4j'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program, str(root)], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
