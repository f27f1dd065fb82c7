from __future__ import annotations

import numpy as np

from lakefactor.kernels import gramian, reference


def test_gramian_equals_the_oracle():
    factors = np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32)
    np.testing.assert_allclose(gramian(factors), reference.gramian(factors), rtol=1e-12, atol=1e-12)


def test_gramian_of_no_rows_is_zero():
    np.testing.assert_array_equal(gramian(np.empty((0, 3), np.float32)), np.zeros((3, 3)))


def test_gramian_of_parts_sums_to_the_whole():
    factors = np.random.default_rng(2).normal(size=(1000, 5)).astype(np.float32)
    np.testing.assert_allclose(gramian(factors[:333]) + gramian(factors[333:]), gramian(factors), rtol=1e-13)


def test_gramian_does_not_lose_small_rows_among_many():
    # In float32 the sum stops at 2**24; blocks must not stop either.
    n = 2**24 + 2**20
    assert gramian(np.ones((n, 1), np.float32))[0, 0] == n


def test_gramian_is_symmetric_bit_for_bit():
    result = gramian(np.random.default_rng(3).normal(size=(501, 33)).astype(np.float32))
    np.testing.assert_array_equal(result, result.T)
