"""The two backends of a half-step behind one call: numba on the CPU, torch on any of its devices.

Place in the data flow: `factorization` prepares each side's system once, and then solves it with every iteration's
source factors. What a backend keeps between the calls (torch: the entries on its device) is its own affair.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lakefactor.errors import ConfigError
from lakefactor.kernels.half_step import half_step
from lakefactor.kernels.system import Method, System

Backend = Literal["auto", "numba", "torch"]
BACKENDS: tuple[Backend, ...] = ("auto", "numba", "torch")
Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "bfloat16")


class HalfStep(Protocol):
    """A system that is ready to be solved; arguments, result and errors are those of `kernels.half_step`."""

    def __call__(
        self, source: NDArray[np.float32], gramian: NDArray[np.float32], x: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Set ``x`` to the solutions; return each row's x'Mx - 2x'b."""
        ...


def prepare(
    system: System, method: Method, backend: Backend = "auto", device: str = "cpu", precision: Precision = "float32"
) -> HalfStep:
    """Return the half-step of a system on a backend.

    Parameters
    ----------
    system : System
        The rows' equations; must not change afterwards.
    method : Method
    backend : {"auto", "numba", "torch"}
        ``auto`` is torch where ``device`` is another than the CPU.
    device : str
        ``cpu``, or another device of torch, as ``cuda:0``. numba runs on the CPU whatever it says.
    precision : {"float32", "tf32", "bfloat16"}
        Of torch's matrix products; numba's are float32 always.

    Raises
    ------
    ConfigError
        An unknown name.
    SetupError
        torch has no such device here.

    Examples
    --------
    One row with one entry, (1 + 2) x = 1, solved for two source factors:

    >>> one = np.ones(1, np.float32)
    >>> system = System(np.array([0, 1]), np.zeros(1, np.int32), one, one, 2 * one, 2 * one)
    >>> solve = prepare(system, Method("cholesky"))
    >>> x, nothing = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)
    >>> solve(np.ones((1, 1), np.float32), nothing, x).round(6), x.round(6)
    (array([-0.333333]), array([[0.333333]], dtype=float32))
    >>> solve(np.full((1, 1), 2, np.float32), nothing, x).round(6), x.round(6)
    (array([-0.666667]), array([[0.333333]], dtype=float32))
    """
    for name, value, known in (("backend", backend, BACKENDS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ConfigError(f"train.{name} is {value!r}; use one of {', '.join(known)}.")
    if backend == "torch" or (backend == "auto" and device != "cpu"):
        from lakefactor.kernels.torch_half_step import TorchHalfStep  # torch takes seconds to import

        return TorchHalfStep(system, method, device, precision)

    def solve(source: NDArray[np.float32], gramian: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float64]:
        return half_step(system, source, gramian, x, method)

    return solve
