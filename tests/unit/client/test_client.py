"""The client against a float64 oracle, over tables that delta-rs wrote."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lakefactor.client import Client
from lakefactor.config import Recommend
from lakefactor.errors import InputError, TableError, UnknownIdError
from lakefactor.testing.one_model import LIVE, OTHER, RANK, OneModel, UserRow

WriteTable = Callable[..., None]
N_USERS = 5
ITEMS = [f"i{n}" for n in range(12)]
USERS = [f"u{n}" for n in range(N_USERS)]


class House(OneModel):
    """User n has viewed the items n, n + 1 and 2 n; u0's event of i5 was deleted. OTHER has its items turned."""

    def __init__(self, write: WriteTable, root: Path, algorithm: str, long_ids: bool = False) -> None:
        users, items = (range(100, 100 + N_USERS), range(2**40, 2**40 + len(ITEMS))) if long_ids else (USERS, ITEMS)
        super().__init__(write, algorithm, users, items, {n: sorted({n, n + 1, 2 * n}) for n in range(N_USERS)})
        self.users = {n: self.solve(n) for n in self.seen}
        self.write_model()
        self.record(OTHER)
        self.write("item_factors", [self.item_row(i, -self.items[i], OTHER) for i in range(len(ITEMS))])
        self.view({(0, 5): 1.0})
        self.view({(0, 5): 1.0}, "delete")
        self.client = Client(str(root))

    def best(self, user: UserRow, n: int, left_out: list[int] = ()) -> list[dict[str, object]]:
        scores = self.scores(user)
        order = [i for i in np.argsort(-scores, kind="stable") if i not in left_out][:n]
        return self.listed(order, score=scores)

    def listed(self, order: list[int], **columns: np.ndarray) -> list[dict[str, object]]:
        return [
            {"position": place, "item_id": self.item_ids[i]}
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
    order = sorted((i for i in range(len(ITEMS) - 1) if i % 3 == 2), key=lambda i: -house.counts[i])[:2]
    assert segment.to_pylist() == house.listed(order, score=house.counts)
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
    order = [i for i in np.argsort(-house.counts, kind="stable") if i != 0][:3]
    assert answer.to_pylist() == house.listed(order, score=house.counts)
    assert answer.basis == "popular"
    assert house.client.recommend("u1", 3, unknown="popular").basis == "user"
    assert house.client.popular(2).to_pylist() == house.listed(np.argsort(-house.counts)[:2], score=house.counts)


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


def test_what_the_model_has_yet_to_learn_shows_beside_the_score(house):
    house.view({(1, 9): 4.0})
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
    rows = house.items.astype(np.float64) * np.sqrt(house.counts)[:, None]
    chosen = []
    for _ in range(RANK):  # Gram-Schmidt, the longest remainder first
        chosen.append(int(np.argmax(np.linalg.norm(rows, axis=1))))
        unit = rows[chosen[-1]] / np.linalg.norm(rows[chosen[-1]])
        rows = rows - np.outer(rows @ unit, unit)
    assert house.client.representative(99).to_pylist() == house.listed(chosen)


def test_the_stream_is_followed_by_a_refresh(house):
    house.write("factor_updates", [house.update("item", "i3", [1.0, 2.0, 3.0, 4.0], 3)])
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
