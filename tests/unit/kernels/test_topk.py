from __future__ import annotations

import numpy as np
import pytest

from lakefactor.errors import ShapeError
from lakefactor.kernels import Ranker, top_k

NOTHING_SEEN = (np.zeros(2, np.int64), np.empty(0, np.int32))


def f32(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def test_ties_go_to_the_lower_column():
    scores, columns = top_k(f32([1, 2, 2, 1, 2]), 4)
    assert columns.tolist() == [[1, 2, 4, 0]]
    assert scores.tolist() == [[2, 2, 2, 1]]


def test_nan_and_minus_infinity_never_win():
    scores, columns = top_k(f32([np.nan, -np.inf, -5, np.inf]), 4)
    assert columns.tolist() == [[3, 2, -1, -1]]
    assert scores.tolist() == [[np.inf, -5, -np.inf, -np.inf]]


def test_bias_moves_the_ranking():
    items = f32([1], [2], [3])
    assert Ranker(items, f32([5, 0, 0])[0]).top(f32([1]), 3, NOTHING_SEEN)[1].tolist() == [[0, 2, 1]]


def test_seen_and_forbidden_items_are_left_out_in_every_block():
    items = np.arange(10, dtype=np.float32)[:, None]
    seen = np.array([0, 3], np.int64), np.array([0, 5, 9], np.int32)
    allowed = np.ones(10, bool)
    allowed[8] = False
    for block in (1, 3, 10, 100):
        _, columns = Ranker(items, block_rows=block).top(f32([1]), 8, seen, allowed=allowed)
        assert columns.tolist() == [[7, 6, 4, 3, 2, 1, -1, -1]]


def test_a_user_without_factors_has_the_items_in_their_order():
    items = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    scores, columns = Ranker(items).top(f32([0, 0, 0]), 3, NOTHING_SEEN)
    assert (scores.tolist(), columns.tolist()) == ([[0, 0, 0]], [[0, 1, 2]])


def test_a_score_is_the_same_number_in_whatever_company_it_is_computed():
    rng = np.random.default_rng(1)
    users, items = rng.normal(size=(50, 64)).astype(np.float32), rng.normal(size=(3000, 64)).astype(np.float32)
    together = Ranker(items).top(users, 10, (np.zeros(51, np.int64), np.empty(0, np.int32)))
    for row, user in enumerate(users):
        alone = Ranker(items, block_rows=700).top(user[None], 10, (np.zeros(2, np.int64), np.empty(0, np.int32)))
        for one, all_rows in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_rows[row])


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        ({"items": np.ones((3, 2), np.float32)}, {}),
        ({"bias": np.ones(2, np.float32)}, {}),
        ({"block_rows": 0}, {}),
        ({}, {"n": 0}),
        ({}, {"bias": np.ones(2, np.float32)}),
        ({}, {"allowed": np.ones(4, bool)}),
        ({}, {"seen": (np.zeros(3, np.int64), np.empty(0, np.int32))}),
    ],
)
def test_arrays_that_disagree_are_refused(made, asked):
    with pytest.raises(ShapeError, match="Ranker"):
        Ranker(**({"items": f32([1], [2], [3])} | made)).top(
            **({"users": f32([1]), "n": 1, "seen": NOTHING_SEEN} | asked)
        )
