"""The half-step on a torch device: entries stay there, source factors come with every call.

The code names no device. Memory of the device: 12 bytes an entry (`torch_layout`), the source's and the own side's
factors, and ``chunk_bytes`` for what lives during a chunk: panels, matrices, and their factorizations. Nothing of size
rows x k x k exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lakefactor.errors import SetupError
from lakefactor.kernels import _float64
from lakefactor.kernels.backends import Precision
from lakefactor.kernels.system import Method, System, check_factors
from lakefactor.kernels.torch_equations import Equations, Source, accumulate, gather, matrix_units
from lakefactor.kernels.torch_layout import buckets, segments_of
from lakefactor.kernels.torch_solvers import SOLVE

CHUNK_BYTES = {"cpu": 8 << 20}
"""Memory of a chunk of rows by kind of device. On the CPU about what its caches hold."""

OTHER_CHUNK_BYTES = 512 << 20

_VECTORS, _MATRICES = 16, 3


class TorchHalfStep:
    """One system on one device; calls are those of `kernels.half_step`.

    Parameters
    ----------
    system : System
    method : Method
        ``threads`` are the CPU threads of torch's operations. Bits may depend on their number.
    device : str
    precision : {"float32", "tf32", "bfloat16"}
        Of the products that make Gramians (and of those of ``cg``). ``tf32`` is float32 on anything but CUDA.
    chunk_bytes : int, optional
        Bound of what lives during a chunk. One row takes what its k x k matrices and one segment of it take.

    Raises
    ------
    SetupError
        There is no such device.

    Notes
    -----
    A row's result may depend, within rounding, on the rows beside it: products of batches choose their own order.
    Rows whose panel is larger than half of ``chunk_bytes`` are summed from partial Gramians, in float32 whatever the
    precision.
    """

    def __init__(
        self, system: System, method: Method, device: str, precision: Precision, chunk_bytes: int | None = None
    ) -> None:
        self._system = system
        self._method = method
        self._device = find_device(device)
        self._precision = precision
        self._chunk_bytes = chunk_bytes or CHUNK_BYTES.get(self._device.type, OTHER_CHUNK_BYTES)
        self._buckets = buckets(system, self._device)
        self._reg, self._reg_last = self._tensor(system.reg), self._tensor(system.reg_last)

    def __call__(
        self, source: NDArray[np.float32], gramian: NDArray[np.float32], x: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Set ``x`` to the solutions; return each row's value."""
        system = self._system
        check_factors(system, source, gramian, x)
        with torch.no_grad(), cpu_threads(self._method.threads), matrix_units("ieee", self._device):
            fixed = self._source(source, gramian)
            own = torch.from_numpy(x).to(self._device)
            values = torch.zeros(len(x), dtype=torch.float64, device=self._device)
            if system.rows and not len(system.indices):
                own.zero_()
            for rows, equations in self._chunks(fixed):
                self._solve(rows, equations, own, values)
            own[self._tensor(np.diff(system.indptr) == 0)] = 0
            if self._device.type != "cpu":
                x[...] = own.cpu().numpy()
            result = values.cpu().numpy()
        failed = np.flatnonzero(~np.isfinite(result))
        if len(failed):
            _float64.solve_rows(failed, system, source, gramian, x, result, self._method.solver == "nonnegative")
        return result

    def _source(self, source: NDArray[np.float32], gramian: NDArray[np.float32]) -> Source:
        design = self._tensor(source)
        if not self._system.biased:
            return Source(design, None, self._tensor(gramian))
        bias, design = design[:, -1].clone(), design.clone()
        design[:, -1] = 1
        return Source(design, bias, self._tensor(gramian))

    def _chunks(self, source: Source) -> Iterator[tuple[Tensor, Equations]]:
        """Yield all rows that have entries, with their equations, as many at a time as memory allows."""
        k = source.design.shape[1]
        for bucket in self._buckets:
            count, segments = chunk_rows(bucket.length, k, self._method.solver, self._chunk_bytes)
            for start in range(0, len(bucket.rows), count):
                rows = bucket.some(start, start + count)
                reg = self._reg[rows.rows, None].expand(-1, k).clone()
                reg[:, -1] = self._reg_last[rows.rows]
                yield rows.rows, accumulate(source, rows, reg, segments) if segments else gather(source, rows, reg)

    def _solve(self, rows: Tensor, exact: Equations, own: Tensor, values: Tensor) -> None:
        before = own[rows]
        solution, value = SOLVE[self._method.solver](exact, exact.lowered(self._precision), before, self._method)
        own[rows] = torch.where(value.isfinite()[:, None], solution, before)  # float64 may start from there
        values[rows] = value

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """Return an array on the device; not a copy on the CPU, so it is read only by convention."""
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self._device)


def chunk_rows(length: int, k: int, solver: str, chunk_bytes: int) -> tuple[int, int]:
    """Return how many rows of a padded length make a chunk, and 0; or 1, and how many of its segments at a time.

    A row needs two panels (float32, and rounded or scratch), some vectors, and but for ``cg`` three matrices and one
    for each of its segments.

    >>> chunk_rows(256, 64, "cg", 1 << 20)
    (7, 0)
    >>> chunk_rows(1 << 20, 64, "cg", 8 << 20)
    (1, 7)
    """
    segments, matrix = segments_of(length), 4 * k * k
    vectors = 4 * k * _VECTORS
    matrices = 0 if solver == "cg" else (_MATRICES + (segments if segments > 1 else 0)) * matrix
    panel = 4 * length * k
    if segments > 1 and 2 * panel > chunk_bytes // 2:
        return 1, max(1, chunk_bytes // (2 * panel // segments + matrix))
    return max(1, chunk_bytes // (2 * panel + vectors + matrices)), 0


def find_device(name: str) -> torch.device:
    """Return a device by its name.

    Raises
    ------
    SetupError
        torch does not know it, or it is not in this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SetupError(
            f"torch {torch.__version__} cannot use the device {name!r}: {str(error).splitlines()[0]}. Set "
            "train.backend to numba, or give the task a device that it has."
        ) from error
    return device


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Run torch's operations on so many CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
