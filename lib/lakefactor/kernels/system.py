"""What a half-step solves: the equations of some rows, and the method that solves them.

Place in the data flow: `factorization` builds a `System` once from a rank's entries; every backend solves it again and
again for changing source factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lakefactor.errors import ShapeError

Solver = Literal["cholesky", "cg", "subspace", "nonnegative"]
SOLVERS: tuple[Solver, ...] = ("cholesky", "cg", "subspace", "nonnegative")


@dataclass(frozen=True)
class System:
    """The rows' equations (a0 Y'Y + sum_e w y y' + diag(reg)) x = sum_e t y, all but the source factors Y.

    Attributes
    ----------
    indptr : int64 ndarray, shape (n + 1,)
        Row pointers, rising from 0 to nnz.
    indices : int32 ndarray, shape (nnz,)
        Row numbers of the source, >= 0.
    weights, targets : float32 ndarray, shape (nnz,)
        w_e >= 0 and t_e, dimensionless.
    reg, reg_last : float32 ndarray, shape (n,)
        Effective regularization of each row and of its last coordinate, >= 0; made by `effective_reg`.
    biased : bool
        The last column is a bias: design row [y_0 .. y_{k-2}, 1], target t - w b_y with b_y the source row's bias.

    Raises
    ------
    ShapeError
        Shapes, dtypes or pointers disagree.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    weights: NDArray[np.float32]
    targets: NDArray[np.float32]
    reg: NDArray[np.float32]
    reg_last: NDArray[np.float32]
    biased: bool = False

    def __post_init__(self) -> None:
        n, nnz = len(self.indptr) - 1, len(self.indices)
        require("indptr", self.indptr, np.int64, (max(n, 0) + 1,))
        require("indices", self.indices, np.int32, (nnz,))
        for name in ("weights", "targets"):
            require(name, getattr(self, name), np.float32, (nnz,))
        for name in ("reg", "reg_last"):
            require(name, getattr(self, name), np.float32, (n,))
        pointers = self.indptr
        if pointers[0] != 0 or pointers[-1] != nnz or np.any(np.diff(pointers) < 0):
            raise ShapeError(f"indptr must rise from 0 to {nnz}; it goes from {pointers[0]} to {pointers[-1]}.")
        if nnz and self.indices.min() < 0:
            raise ShapeError(f"indices begin at {self.indices.min()}; they are row numbers of the source, 0 or more.")

    @property
    def rows(self) -> int:
        """Rows n."""
        return len(self.indptr) - 1

    def penalty(self, x: NDArray[np.float32]) -> float:
        """Return sum_r lambda_r |x_r|^2 of some solutions, float64."""
        # einsum converts a few numbers at a time: a float64 copy of all factors would be twice their memory.
        factors = np.einsum("ij,ij->i", x[:, :-1], x[:, :-1], dtype=np.float64)
        return float(factors @ self.reg + np.square(x[:, -1], dtype=np.float64) @ self.reg_last)


@dataclass(frozen=True)
class Method:
    """How a half-step is solved.

    Attributes
    ----------
    solver : {"cholesky", "cg", "subspace", "nonnegative"}
        Exact; steps of conjugate gradients from what ``x`` holds; block descent over ``block_size`` coordinates at a
        time (iALS++) from what ``x`` holds; or coordinate descent with x >= 0 (HALS) from what ``x`` holds.
    steps : int
        Conjugate gradient steps, or sweeps over all coordinates, >= 1. Not used by ``cholesky``.
    block_size : int
        Coordinates that ``subspace`` solves together, >= 1.
    threads : int
        CPU threads, >= 1. The result is the same bit for bit for any number.

    Raises
    ------
    ShapeError
        A number or the solver's name is out of range.
    """

    solver: Solver = "cg"
    steps: int = 3
    block_size: int = 64
    threads: int = 1

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ShapeError(f"found solver {self.solver!r}; use one of {', '.join(SOLVERS)}.")
        for name in ("steps", "block_size", "threads"):
            if getattr(self, name) < 1:
                raise ShapeError(f"{name} is {getattr(self, name)}; it must be 1 or more.")


def require(name: str, array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> None:
    """Raise ShapeError unless an array is of a dtype and shape, in C order."""
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        raise ShapeError(
            f"{name} is {array.dtype}{list(array.shape)}, C order {array.flags.c_contiguous}; "
            f"it must be {np.dtype(dtype)}{list(shape)} in C order."
        )


def check_factors(system: System, source: NDArray[Any], gramian: NDArray[Any], x: NDArray[Any]) -> None:
    """Raise ShapeError unless the factors of a call fit the system."""
    if source.ndim != 2:
        raise ShapeError(f"source has shape {list(source.shape)}; it must have two dimensions.")
    m, k = source.shape
    require("source", source, np.float32, (m, k))
    require("gramian", gramian, np.float32, (k, k))
    require("x", x, np.float32, (system.rows, k))
    if len(system.indices) and system.indices.max() >= m:
        raise ShapeError(f"indices lie in [0, {system.indices.max()}]; source has {m} rows.")
