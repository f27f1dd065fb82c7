"""Solvers of a chunk's equations, all rows at once. `torch_half_step` is their only caller.

Each takes the equations in float32 (``exact``), the same in the configured precision (``rough``; the same object where
that is float32), and x, shape (B, k), where iterative ones start. Each returns the new x and the rows' values
x'Mx - 2x'b = -(x'b + x'r) with r = b - Mx exact: float64, NaN where float32 cannot solve a row. What is rough decides
only where a step goes; how far, and what is left, is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lakefactor.kernels.system import Method
from lakefactor.kernels.torch_equations import Equations

Solution = tuple[Tensor, Tensor]

REFINED = 1e-5
"""Residual |b - Mx| / |b| that a refined solution has to reach; rows that miss it are solved in float32."""

_REFINEMENTS = 3
"""Steps of conjugate gradients that the rough factorization preconditions. The first is its solution, and each gains
about the digits of the precision (2 to 3)."""

_ROUGH_STEPS = 8
"""Conjugate gradient steps on rough products before the residual is computed exactly: they lose direction soon."""

_LOOK_EVERY = 8
"""Steps between looks whether all rows are solved: a look waits for the device."""


def cholesky(exact: Equations, rough: Equations, x: Tensor, method: Method) -> Solution:
    """Solve exactly."""
    solution, residual, sound = _factorized(exact, rough)
    if rough is not exact:
        poor = ~(sound & (_dot(residual, residual) <= REFINED**2 * _dot(exact.rhs, exact.rhs)))
        if bool(poor.any()):
            again, left, sound = _factorized(exact, exact)
            solution = torch.where(poor[:, None], again, solution)
            residual = torch.where(poor[:, None], left, residual)
            sound = sound | ~poor
    return solution, _values(exact, solution, residual, sound)


def _factorized(exact: Equations, rough: Equations) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, b - Mx and whether the pivots are sound, by one factorization of ``rough``."""
    factor, sound = _factorize(rough.block(0, exact.rhs.shape[1]))
    if rough is exact:
        solution = _back(factor, exact.rhs)
        return solution, exact.rhs - exact.product(solution), sound
    solution, residual = torch.zeros_like(exact.rhs), exact.rhs
    direction, before = torch.zeros_like(exact.rhs), torch.ones_like(exact.constant)
    for _ in range(_REFINEMENTS):
        preconditioned = _back(factor, residual)
        square = _dot(residual, preconditioned)
        direction = preconditioned + (square / before).float()[:, None] * direction
        product = exact.product(direction)
        step = _ratio(square, _dot(direction, product))
        solution = solution + step * direction
        residual = residual - step * product
        before = torch.where(square > 0, square, 1)
    return solution, residual, sound


def conjugate_gradients(exact: Equations, rough: Equations, x: Tensor, method: Method) -> Solution:
    """Take ``method.steps`` steps from x (Hestenes and Stiefel 1952).

    In lower precision they solve M d = b - Mx for a step d, whose length then is the best for the exact M: the
    objective never rises, and what rounding does to d fades as d does over the iterations.
    """
    residual = exact.rhs - exact.product(x)
    # a relative residual of 1e-7: float32 cannot do better
    solved = 1e-14 * (_dot(exact.rhs, exact.rhs) + _dot(residual, residual))
    if rough is exact:
        step, residual, sound = _descend(exact.product, residual, solved, method.steps)
        x = x + step
        return x, _values(exact, x, residual, sound)
    sound = torch.ones_like(solved, dtype=torch.bool)
    for done in range(0, method.steps, _ROUGH_STEPS):
        step, _, steep = _descend(rough.product, residual, solved, min(_ROUGH_STEPS, method.steps - done))
        product = exact.product(step)
        length = _ratio(_dot(step, residual), _dot(step, product))
        x, residual, sound = x + length * step, residual - length * product, sound & steep
    return x, _values(exact, x, residual, sound)


def _descend(
    product: Callable[[Tensor], Tensor], residual: Tensor, solved: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the steps, the residual after them, and whether the first had a curvature at all.

    A row stops when it is solved, or when a curvature is rounding noise of the steepest: it is singular there.
    """
    total, direction = torch.zeros_like(residual), residual
    square = _dot(residual, residual)
    steepest = torch.zeros_like(square)
    going, sound = ~(square <= solved), torch.ones_like(square, dtype=torch.bool)
    for number in range(1, steps + 1):
        moved = torch.where(going[:, None], product(direction), 0)
        curvature, length = _dot(direction, moved), _dot(direction, direction)
        steep = curvature > 1e-7 * steepest * length
        sound &= steep | ~going | (steepest > 0)
        going = going & steep
        steepest = torch.maximum(steepest, torch.where(going, curvature / length, 0))
        step = torch.where(going, square / curvature, 0).float()[:, None]
        total = total + step * direction
        residual = residual - torch.where(going[:, None], step * moved, 0)
        before, square = square, _dot(residual, residual)
        turn = torch.where(going, square / before, 0).float()[:, None]
        direction = torch.where(going[:, None], residual + turn * direction, 0)
        going = going & ~(square <= solved)
        if number % _LOOK_EVERY == 0 and not bool(going.any()):
            break
    return total, residual, sound


def subspace(exact: Equations, rough: Equations, x: Tensor, method: Method) -> Solution:
    """Solve for ``method.block_size`` coordinates at a time, ``method.steps`` times over all (iALS++).

    References
    ----------
    Rendle, Krichene, Zhang, Koren, "iALS++: Speeding up matrix factorization with subspace optimization", 2021.
    """
    k = x.shape[1]
    bounds = [(start, min(start + method.block_size, k)) for start in range(0, k, method.block_size)]
    factors = [_factorize(rough.block(*bound)) for bound in bounds]
    residual = exact.rhs - exact.product(x)
    for _ in range(method.steps):
        for (start, stop), (factor, _sound) in zip(bounds, factors, strict=True):
            step = torch.zeros_like(x)
            step[:, start:stop] = _back(factor, residual[:, start:stop])
            product = exact.product(step)
            if rough is not exact:
                length = _ratio(_dot(step, residual), _dot(step, product))
                step, product = length * step, length * product
            x, residual = x + step, residual - product
    sound = torch.stack([sound for _, sound in factors]).all(0)
    return x, _values(exact, x, residual, sound)


def nonnegative(exact: Equations, rough: Equations, x: Tensor, method: Method) -> Solution:
    """Set each coordinate to its best value of 0 or more, in order, ``method.steps`` times over all (HALS).

    The matrix is that of float32 whatever the precision: its k sequential steps cost more than it does.

    References
    ----------
    Cichocki, Phan, "Fast local algorithms for large scale nonnegative matrix and tensor factorizations", 2009.
    """
    k = x.shape[1]
    matrix = exact.block(0, k)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    sound = (diagonal >= 0).all(1)
    curvature = torch.where(diagonal > 0, diagonal, 1)  # a coordinate without curvature has no gradient either
    x = x.clone()
    residual = exact.rhs - torch.bmm(matrix, x.unsqueeze(2)).squeeze(2)
    for _ in range(method.steps):
        for j in range(k):
            new = (x[:, j] + residual[:, j] / curvature[:, j]).clamp(min=0)
            residual -= (new - x[:, j])[:, None] * matrix[:, j]
            x[:, j] = new
    return x, _values(exact, x, residual, sound)


SOLVE = {
    "cholesky": cholesky,
    "cg": conjugate_gradients,
    "subspace": subspace,
    "nonnegative": nonnegative,
}


def _factorize(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factors, and whether float32 is precise enough for them.

    A pivot of about k rounding errors of its diagonal element carries no information, though it may be positive.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal(dim1=1, dim2=2).square()
    noise = matrix.shape[1] * 6e-8
    return factor, (info == 0) & (pivots > noise * matrix.diagonal(dim1=1, dim2=2)).all(1)


def _back(factor: Tensor, rhs: Tensor) -> Tensor:
    return torch.cholesky_solve(rhs.unsqueeze(2), factor).squeeze(2)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return a'b of each row, float64: products of tiny float32 numbers do not vanish, huge ones do not overflow."""
    return torch.linalg.vecdot(a.double(), b.double())


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b as float32, shape (B, 1); 0 where b is not positive."""
    return torch.where(b > 0, a / b, 0).float()[:, None]


def _values(exact: Equations, x: Tensor, residual: Tensor, sound: Tensor) -> Tensor:
    value = exact.constant - _dot(x, exact.rhs) - _dot(x, residual)
    return torch.where(sound & x.isfinite().all(1), value, torch.nan)
