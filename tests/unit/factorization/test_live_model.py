"""The live model: what it holds is what the tables hold, and its Gramians do not depend on its past."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefactor.config import Model
from lakefactor.errors import ConfigError, ShapeError, SolveError
from lakefactor.factorization.live_model import LiveModel, check_streamed, memory_bytes
from lakefactor.kernels import gramian
from lakefactor.kernels.running_gramian import LARGEST, RunningGramian
from lakefactor.testing.live_models import MODELS, RANK, live_model
from lakefactor.types import SIDES


def random_rows(n: int, seed: int, scale: float = 0.5) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=(n, RANK))).astype(np.float32)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_gramians_by_changes_are_the_bits_of_a_new_sum(data):
    """Any rows replaced in any order, then restarted with the rows in another order."""
    live = live_model(MODELS["implicit_als"])
    for step in range(data.draw(st.integers(1, 5))):
        side = data.draw(st.sampled_from(SIDES))
        some = data.draw(st.lists(st.integers(0, live.size(side) - 1), unique=True, max_size=live.size(side)))
        rows = np.array(some, np.int64)
        live.replace(side, rows, random_rows(len(rows), step, 10.0 ** (step - 3)), np.ones(len(rows), np.int64))
    kept = {side: live.scaled_gramian(side) for side in SIDES}
    for side in SIDES:
        y = live.source(side).astype(np.float64)
        exact, size = y.T @ y, np.abs(y).sum(axis=0)
        half = 2.0**-25  # each number is rounded to a multiple of 2^-24
        rounding = half * np.add.outer(size, size) + len(y) * half**2
        assert (np.abs(kept[side] - exact) <= rounding + np.finfo(np.float32).eps * np.abs(exact)).all()
    live.recompute_gramians()
    anew = restarted(live, data.draw(st.integers(0, 99)))
    for side in SIDES:
        np.testing.assert_array_equal(live.scaled_gramian(side), kept[side])
        np.testing.assert_array_equal(anew.scaled_gramian(side), kept[side])


def restarted(live: LiveModel, seed: int) -> LiveModel:
    """Return a model loaded from what the tables hold of ``live``, rows in another order."""
    ids, factors, bias, n_entries = {}, {}, {}, {}
    for side in SIDES:
        rows = np.random.default_rng(seed).permutation(live.size(side))
        ids[side] = pa.array(live.ids(side, rows))
        factors[side], bias[side] = live.stored(side, rows)
        n_entries[side] = live.n_entries(side, rows)
    return LiveModel(live.model, live.equation.mean, ids, factors, bias, n_entries)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_running_gramian_is_the_oracles(scale):
    rows = random_rows(40_000, 1, scale)
    kept = RunningGramian(RANK)
    kept.add(rows)
    np.testing.assert_allclose(kept.value(), gramian(rows), rtol=1e-6, atol=1e-6 * len(rows) * scale**2)
    np.testing.assert_array_equal(kept.value(), kept.value().T)
    kept.subtract(rows[::-1])
    np.testing.assert_array_equal(kept.value(), np.zeros((RANK, RANK)))


def test_running_gramian_of_the_largest_numbers_and_refused_ones():
    kept, edge = RunningGramian(1), np.float32(np.nextafter(np.float32(LARGEST), np.float32(0)))
    kept.add(np.array([[edge], [-edge]]))
    np.testing.assert_array_equal(kept.value(), [[2 * float(edge) ** 2]])
    for bad in (np.float32(LARGEST), np.float32(np.nan), np.float32(np.inf)):
        with pytest.raises(SolveError, match="1 rows hold factors"):
            kept.add(np.array([[bad], [edge]]))
    np.testing.assert_array_equal(kept.value(), [[2 * float(edge) ** 2]])


def test_damage_is_found_and_repaired():
    live = live_model(MODELS["ials"])
    live.source("user")[3] += 1.0
    assert live.recompute_gramians() > 1e-3
    assert live.recompute_gramians() < 1e-7


@pytest.mark.parametrize("algorithm", MODELS)
def test_stored_is_what_was_loaded(algorithm):
    model = MODELS[algorithm]
    if algorithm in ("implicit_als", "ials"):
        model = model.model_copy(update={"item_norm_exponent": 0.6})
    random = np.random.default_rng(0)
    ids = {"user": pa.array([7, 3, 2**40]), "item": pa.array(["b", "a", "ü", "d"])}
    factors = {side: np.abs(random.normal(size=(len(ids[side]), RANK))).astype(np.float32) for side in SIDES}
    bias = {side: np.full(len(ids[side]), 0.5 * (algorithm == "explicit_als"), np.float32) for side in SIDES}
    live = LiveModel(model, 2.0, ids, factors, bias, {side: np.arange(len(ids[side])) for side in SIDES})
    for side in SIDES:
        rows = live.rows(side, ids[side])
        stored = live.stored(side, rows)
        np.testing.assert_allclose(stored[0], factors[side], rtol=1e-6)
        np.testing.assert_array_equal(stored[1], bias[side])
        np.testing.assert_array_equal(live.n_entries(side, rows), np.arange(len(ids[side])))
        assert live.ids(side, rows) == ids[side].to_pylist()
    np.testing.assert_array_equal(live.rows("user", pa.array([5, 2**40, 7, 5])), [-1, 2, 0, -1])
    items = live.source("item")
    p = model.item_norm_exponent
    np.testing.assert_allclose(
        items[:, :RANK] / np.linalg.norm(items[:, :RANK], axis=1, keepdims=True) ** p, factors["item"], rtol=1e-5
    )


def test_new_rows_come_in_order_of_ids_and_keep_what_was_there():
    live = live_model(MODELS["explicit_als"])
    n = live.size("item")
    before, state = live.source("item").copy(), np.ones((n, 3), np.float32)
    live.replace("item", np.arange(n), before, np.arange(n), state)
    known = live.ids("item", np.array([2]))[0]
    for round_, name in enumerate(("z", "y", "x")):
        rows = live.add("item", pa.chunked_array([[f"{name}-{i}" for i in range(40)[::-1]], [known, f"{name}-3"]]))
        first = n + 40 * round_
        np.testing.assert_array_equal(rows[40:], [2, rows[36]])
        assert live.ids("item", np.arange(first, first + 40)) == sorted(f"{name}-{i}" for i in range(40))
    assert live.size("item") == n + 120
    np.testing.assert_array_equal(live.source("item")[:n], before)
    np.testing.assert_array_equal(live.source("item")[n:], 0)
    np.testing.assert_array_equal(live.optimizer_state("item", np.arange(n + 120), 3)[n:], 0)
    np.testing.assert_array_equal(live.optimizer_state("item", np.arange(n), 3), state)
    np.testing.assert_array_equal(live.optimizer_state("item", np.arange(n), 4), 0)
    assert live.source("item").flags.c_contiguous


def test_dictionary_encoded_ids_are_ids():
    live = live_model(MODELS["ials"])
    names = pa.chunked_array([pa.array(live.ids("user", np.array([1, 5, 1]))).dictionary_encode()])
    np.testing.assert_array_equal(live.rows("user", names), [1, 5, 1])
    sliced = pa.array(["new-a", "new-b", "new-a"]).dictionary_encode().slice(0, 1)
    live.add("user", sliced)
    assert live.rows("user", pa.array(["new-b"])).tolist() == [-1]


@pytest.mark.parametrize("algorithm", ["svd", "lsa", "sgd"])
def test_algorithms_without_a_rule_are_refused(algorithm):
    with pytest.raises(ConfigError, match=f"{algorithm}, which has no update rule.*train"):
        check_streamed(Model(algorithm=algorithm))


def test_arrays_that_disagree_are_refused():
    live = live_model(MODELS["ials"])
    ids = {side: pa.array(live.ids(side, np.arange(3))) for side in SIDES}
    parts = [{side: np.zeros(shape, kind) for side in SIDES} for shape, kind in (((3, 2), "f4"), (3, "f4"), (3, "i8"))]
    with pytest.raises(ShapeError, match="the rank is 5"):
        LiveModel(MODELS["ials"], 0.0, ids, *parts)
    twice = {side: pa.array(["a", "b", "a"]) for side in SIDES}
    parts[0] = {side: np.zeros((3, RANK), np.float32) for side in SIDES}
    with pytest.raises(ShapeError, match="1 user ids are there twice"):
        LiveModel(MODELS["ials"], 0.0, twice, *parts)
    with pytest.raises(ShapeError, match="1 of 2 ids are null"):
        live.rows("user", pa.array(["u-1", None]))


def test_memory_formula_covers_what_python_takes():
    import tracemalloc

    n, columns = 20_000, 16
    model = Model(algorithm="ials", rank=columns)
    ids = {side: pa.array([f"{side}-{number:036d}" for number in range(n)]) for side in SIDES}
    arrays = [
        {side: np.zeros(shape, kind) for side in SIDES} for shape, kind in (((n, columns), "f4"), (n, "f4"), (n, "i8"))
    ]
    tracemalloc.start()
    live = LiveModel(model, 0.0, ids, *arrays)
    for side in SIDES:
        live.add(side, pa.array(["one more"]))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.6 * memory_bytes(n, n, columns) <= used <= 1.1 * memory_bytes(n, n, columns)
