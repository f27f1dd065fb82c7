from __future__ import annotations

import numpy as np
import pytest

from lakefactor.errors import ShapeError
from lakefactor.kernels import build_csr, transpose


def entries(*triples: tuple[int, int, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, cols, values = zip(*triples, strict=True)
    return np.array(rows, np.int32), np.array(cols, np.int32), np.array(values, np.float32)


def test_dtypes_are_those_of_the_kernels():
    for arrays in (build_csr(*entries((1, 2, 3.0)), 4), transpose(*build_csr(*entries((1, 2, 3.0)), 4), 3)):
        assert [array.dtype for array in arrays] == [np.int64, np.int32, np.float32]


def test_no_entries_make_empty_rows():
    none = np.empty(0, np.int32)
    indptr, indices, values = build_csr(none, none, np.empty(0, np.float32), 3)
    assert indptr.tolist() == [0, 0, 0, 0]
    assert len(indices) == len(values) == 0
    assert transpose(indptr, indices, values, 2)[0].tolist() == [0, 0, 0]


def test_repeated_pairs_keep_their_order():
    indptr, indices, values = build_csr(*entries((0, 1, 5.0), (0, 0, 7.0), (0, 1, 6.0)), 1)
    assert (indptr.tolist(), indices.tolist(), values.tolist()) == ([0, 3], [0, 1, 1], [7.0, 5.0, 6.0])


@pytest.mark.parametrize("triple", [(-1, 0, 1.0), (2, 0, 1.0), (0, -1, 1.0)])
def test_numbers_out_of_range_are_refused(triple):
    with pytest.raises(ShapeError, match="must lie"):
        build_csr(*entries(triple), 2)


def test_lengths_must_agree():
    rows, cols, values = entries((0, 0, 1.0), (1, 1, 1.0))
    with pytest.raises(ShapeError, match="2 rows, 1 columns"):
        build_csr(rows, cols[:1], values, 2)


def test_transpose_refuses_an_index_beyond_its_columns():
    with pytest.raises(ShapeError, match=r"not in \[0, 2\)"):
        transpose(*build_csr(*entries((0, 2, 1.0)), 1), 2)
