from __future__ import annotations

import numpy as np
import pytest

from lakefactor.kernels import effective_reg


@pytest.mark.parametrize(
    ("exponent", "offset", "expected"),
    [
        (0.0, 0.0, [0.5, 0.5, 0.5]),  # implicit: the same for all
        (1.0, 0.0, [0.0, 2.0, 4.5]),  # ALS-WR: reg * n
        (0.5, 0.0, [0.0, 1.0, 1.5]),
        (1.0, 10.0, [5.0, 7.0, 9.5]),  # iALS: reg * (n + a0 |source|)
    ],
)
def test_effective_reg_follows_the_convention(exponent, offset, expected):
    result = effective_reg(np.array([0, 4, 9]), 0.5, exponent, offset)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_no_reg_stays_none():
    np.testing.assert_array_equal(effective_reg(np.array([1, 100]), 0.0, 1.0), [0.0, 0.0])
