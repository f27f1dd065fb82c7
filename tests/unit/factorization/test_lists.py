"""Lists under rules, against plain loops over all items."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from lakefactor.config import Recommend
from lakefactor.factorization.catalogue import Catalogue, as_lists
from lakefactor.factorization.lists import POOL, SimilarItems, TopItems

M, B, RANK, MEAN = 60, 7, 5, 0.5
RANDOM = np.random.default_rng(11)
CATEGORIES = [None if i % 7 == 0 else "abc"[i % 3] for i in range(M)]
CATALOGUE = Catalogue(
    pa.array([f"i{i:02d}" for i in range(M)]),
    RANDOM.normal(size=(M, RANK)).astype(np.float32),
    RANDOM.normal(size=M).astype(np.float32),
    RANDOM.integers(1, 1000, M),
    pa.array(CATEGORIES, pa.string()),
)
USERS = RANDOM.normal(size=(B, RANK)).astype(np.float32)
BIAS = RANDOM.normal(size=B).astype(np.float32)
SEEN = [sorted(RANDOM.choice(M, 5, replace=False).tolist()) for _ in range(B)]
SCORES = (
    USERS.astype(np.float64) @ CATALOGUE.factors.astype(np.float64).T
    + (BIAS.astype(np.float64)[:, None] + MEAN)
    + CATALOGUE.bias
).astype(np.float32)


def lists(**rules) -> list[list[tuple[int, np.float32]]]:
    """Return the lists as (item, score)."""
    users = pa.record_batch(
        {
            "user_id": pa.array(range(B)),
            "factors": as_lists(USERS),
            "bias": pa.array(BIAS),
            "seen": pa.array([[f"i{i:02d}" for i in seen] for seen in SEEN]),
        }
    )
    top = TopItems(CATALOGUE, MEAN, Recommend()).under(Recommend(**rules))
    rows = pa.Table.from_batches(list(top.of(users))).to_pylist()
    found = [[] for _ in range(B)]
    for row in rows:
        found[row["user_id"]].append((int(row["item_id"][1:]), np.float32(row["score"])))
        assert row["position"] == len(found[row["user_id"]])
    return found


def by_hand(user: int, n: int, worth, may) -> list[tuple[int, np.float32]]:
    """Walk all items that the user has not seen by falling worth, and take those that `may` let pass."""
    taken = []
    for item in sorted(set(range(M)) - set(SEEN[user]), key=lambda item: (-worth(user, item), item)):
        if len(taken) < n and may(taken, item):
            taken.append(item)
    return [(item, SCORES[user, item]) for item in taken]


def every(n, worth=lambda user, item: SCORES[user, item], may=lambda taken, item: True):
    return [by_hand(user, n, worth, may) for user in range(B)]


def test_without_rules_it_is_the_best_of_the_unseen():
    assert lists(n=8) == every(8)
    assert lists(n=8, user_block_rows=3, item_block_rows=7) == every(8)


def test_items_and_categories_are_allowed_and_denied():
    of = CATEGORIES.__getitem__
    assert lists(n=99, allow_categories=("a", "b"), deny_categories=("b",)) == every(
        99, may=lambda taken, item: of(item) == "a"
    )
    assert lists(n=99, deny_categories=("a",), deny_items=("i01", "i02")) == every(
        99, may=lambda taken, item: of(item) != "a" and item not in (1, 2)
    )
    assert lists(n=4, allow_categories=("none",)) == [[]] * B


@pytest.mark.parametrize("most", [1, 2, 15])
def test_a_category_has_its_most_and_lists_are_filled_as_far_as_that_goes(most):
    """With 1 or 2 of a category and 30 places, the candidates are widened until all items without one are in."""

    def may(taken, item):
        own = CATEGORIES[item]
        return own is None or [CATEGORIES[other] for other in taken].count(own) < most

    found = lists(n=30, max_per_category=most)
    assert found == every(30, may=may)
    for each in found:
        counts = Counter(CATEGORIES[item] for item, _ in each)
        assert all(count <= most for category, count in counts.items() if category)


def test_popular_items_are_discounted_in_rank_and_not_in_score():
    discount = 0.7 * np.log1p(CATALOGUE.n_entries)
    assert lists(n=10, popularity_discount=0.7) == every(
        10, worth=lambda user, item: SCORES[user, item] - discount[item]
    )


def test_diversity_is_maximal_marginal_relevance_over_the_best():
    n, d = 4, 0.6
    unit = CATALOGUE.factors / np.linalg.norm(CATALOGUE.factors, axis=1, keepdims=True)
    for user, found in enumerate(lists(n=n, diversity=d)):
        pool = [item for item, _ in by_hand(user, POOL * n, lambda u, i: SCORES[u, i], lambda taken, item: True)]
        low, high = (float(SCORES[user, pool[place]]) for place in (-1, 0))
        chosen = []
        for _ in range(n):

            def worth(item, chosen=tuple(chosen), user=user, low=low, high=high):
                nearest = max((float(unit[item] @ unit[other]) for other in chosen), default=0.0)
                return (1 - d) * (float(SCORES[user, item]) - low) / (high - low) - d * nearest

            chosen.append(max((item for item in pool if item not in chosen), key=worth))
        assert [item for item, _ in found] == chosen
        assert [score for _, score in found] == [SCORES[user, item] for item in chosen]


def test_diverse_lists_keep_to_their_categories():
    for found in lists(n=12, diversity=0.5, max_per_category=2):
        counts = Counter(CATEGORIES[item] for item, _ in found)
        assert all(count <= 2 for category, count in counts.items() if category)


def test_similar_items_leave_the_item_itself_out():
    rows = pa.Table.from_batches(list(SimilarItems(CATALOGUE).of(np.array([3, 9]), 3))).to_pylist()
    y = CATALOGUE.factors.astype(np.float64)
    for own in (3, 9):
        cosines = y @ y[own] / np.linalg.norm(y, axis=1) / np.linalg.norm(y[own])
        best = [i for i in np.argsort(-cosines, kind="stable") if i != own][:3]
        found = [row for row in rows if row["item_id"] == f"i{own:02d}"]
        assert [row["similar_item_id"] for row in found] == [f"i{i:02d}" for i in best]
        np.testing.assert_allclose([row["similarity"] for row in found], cosines[best], rtol=1e-6)
