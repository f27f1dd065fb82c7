"""The nearest rotation, against planted ones and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from lakefactor.kernels.procrustes import nearest_rotation


@pytest.mark.parametrize("k", [1, 2, 7, 33])
def test_a_planted_rotation_is_found(k: int) -> None:
    rng = np.random.default_rng(k)
    planted = ortho_group.rvs(k, random_state=k) if k > 1 else np.array([[-1.0]])
    rows = rng.normal(size=(5 * k, k))
    np.testing.assert_allclose(nearest_rotation(rows.T @ (rows @ planted)), planted, atol=1e-10)


def test_of_rows_that_only_resemble_each_other_it_is_scipys() -> None:
    rng = np.random.default_rng(3)
    new, old = rng.normal(size=(2, 50, 6))
    found = nearest_rotation(new.T @ old)
    np.testing.assert_allclose(found, orthogonal_procrustes(new, old)[0], atol=1e-10)
    np.testing.assert_allclose(found @ found.T, np.eye(6), atol=1e-12)


def test_without_common_rows_it_is_still_a_rotation() -> None:
    found = nearest_rotation(np.zeros((4, 4)))
    np.testing.assert_allclose(np.abs(found @ found.T), np.eye(4), atol=1e-12)
