"""BLAS and LAPACK routines that numba-compiled code can call without the GIL.

The routines are those of the OpenBLAS inside SciPy, reached through `scipy.linalg.cython_blas` and `cython_lapack`.
They are registered under names of our own, not by address, so that numba's on-disk cache stays valid in another
process (an address changes with every process). Importing this module registers them: every module with a compiled
function that calls one must import it before that function runs.

All matrices are column-major, as BLAS has it; a C-ordered (n, k) array is a column-major (k, n) matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg.cython_blas
import scipy.linalg.cython_lapack  # noqa: F401 - loads the library that the next lines look into
from llvmlite import binding
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

LOWER, PLAIN, TRANSPOSED = np.uint8(ord("L")), np.uint8(ord("N")), np.uint8(ord("T"))

_CHAR = types.CPointer(types.uint8)
_INT = types.CPointer(types.int32)
_FLOAT = types.CPointer(types.float32)


def _external(module: str, name: str, *arguments: Any) -> types.ExternalFunction:
    symbol = f"lakefactor_{name}"
    binding.add_symbol(symbol, get_cython_function_address(f"scipy.linalg.{module}", name))
    return types.ExternalFunction(symbol, types.void(*arguments))


sgemm = _external(
    "cython_blas", "sgemm",
    _CHAR, _CHAR, _INT, _INT, _INT, _FLOAT, _FLOAT, _INT, _FLOAT, _INT, _FLOAT, _FLOAT, _INT,
)  # fmt: skip
spotrf = _external("cython_lapack", "spotrf", _CHAR, _INT, _FLOAT, _INT, _INT)
spotrs = _external("cython_lapack", "spotrs", _CHAR, _INT, _INT, _FLOAT, _INT, _FLOAT, _INT, _INT)


@intrinsic
def ref(typing_context: Any, value: Any) -> Any:
    """Put a scalar on the stack and return a pointer to it (Fortran passes every argument by reference)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.alloca_once_value(builder, arguments[0])

    return types.CPointer(value)(value), generate
