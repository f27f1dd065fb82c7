"""Rating errors against NumPy on whole arrays, and the law that block sums merge."""

from __future__ import annotations

from math import isnan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefactor.errors import ShapeError
from lakefactor.metrics import ErrorSums, error_sums, mae, rmse

half = st.floats(-10, 10, width=16)  # half precision: no value whose square underflows
ratings = st.lists(st.tuples(half, half), min_size=1, max_size=30)


def test_worked_example():
    assert rmse([3.0, 4.0, 2.0], [4.0, 4.0, 4.0]) == pytest.approx(sqrt(5 / 3))
    assert mae([3.0, 4.0, 2.0], [4.0, 4.0, 4.0]) == pytest.approx(1.0)


@given(ratings, st.integers(0, 30))
def test_sums_of_blocks_merge(pairs, cut):
    predicted, actual = np.array(pairs).T
    merged = error_sums(predicted[:cut], actual[:cut]) + error_sums(predicted[cut:], actual[cut:])
    assert merged.n == len(pairs)
    assert merged.rmse == pytest.approx(np.sqrt(np.mean((predicted - actual) ** 2)), rel=1e-12)
    assert merged.mae == pytest.approx(np.mean(np.abs(predicted - actual)), rel=1e-12)
    assert merged.mae <= merged.rmse * (1 + 1e-12)


def test_float32_is_summed_in_float64():
    error = error_sums(np.full(100_000, 0.1, dtype=np.float32), np.zeros(100_000, dtype=np.float32))
    assert error.absolute == pytest.approx(100_000 * float(np.float32(0.1)), rel=1e-12)


def test_nothing_is_undefined_and_nan_is_never_left_out():
    assert isnan(ErrorSums().rmse)
    assert isnan(ErrorSums().mae)
    assert isnan(rmse([1.0, float("nan")], [1.0, 1.0]))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ShapeError, match=r"\(2,\) predictions for \(1,\) ratings"):
        rmse([1.0, 2.0], [1.0])
