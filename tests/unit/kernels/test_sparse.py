"""The sparse product is the dense one, for any number of threads to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from lakefactor.errors import ShapeError
from lakefactor.kernels import SparseMatrix, sparse_product


@pytest.mark.parametrize("columns", [1, 7, 16])
def test_the_dense_product_for_any_number_of_threads(columns, monkeypatch):
    monkeypatch.setattr("lakefactor.kernels.sparse._WORTH_A_THREAD", 0)
    random = np.random.default_rng(0)
    rows = sparse.random(90, 50, 0.3, format="csr", dtype=np.float32, random_state=1)
    rows.data -= np.float32(0.5)
    matrix = SparseMatrix(rows.indptr.astype(np.int64), rows.indices.astype(np.int32), rows.data, 50)
    source = random.normal(size=(50, columns))
    found = sparse_product(matrix, source)
    np.testing.assert_allclose(found, rows.astype(np.float64).toarray() @ source, atol=1e-12)
    for threads in (2, 5):
        np.testing.assert_array_equal(sparse_product(matrix, source, threads), found)


def test_no_rows_and_empty_rows():
    empty = np.empty(0, np.int32), np.empty(0, np.float32)
    for n in (0, 3):
        matrix = SparseMatrix(np.zeros(n + 1, np.int64), *empty, columns=2)
        np.testing.assert_array_equal(sparse_product(matrix, np.ones((2, 4)), threads=2), np.zeros((n, 4)))


def test_what_does_not_fit_is_refused():
    csr = np.array([0, 1]), np.array([2], np.int32), np.ones(1, np.float32)
    with pytest.raises(ShapeError, match=r"indices lie in \[2, 2\]; they must lie in \[0, 2\)"):
        SparseMatrix(*csr, columns=2)
    with pytest.raises(ShapeError, match=r"source is float64\[2, 1\]"):
        sparse_product(SparseMatrix(*csr, columns=3), np.ones((2, 1)))
