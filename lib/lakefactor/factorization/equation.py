"""The one equation: what each algorithm puts into it.

Every half-step solves, for a target row r with entries E(r) and source factors Y::

    (a0 Y'Y + sum_e w_e y_e y_e' + lambda_r I) x = sum_e t_e y_e

and thereby minimises, over both sides together::

    sum_e (w_e p_e^2 - 2 t_e p_e + c_e) + a0 sum_{all pairs} p^2 + sum_r lambda_r |x_r|^2

with p_e the prediction of entry e. This module is the only one that knows how an algorithm turns strengths into
weights w, targets t and constants c, and which effective regularization it uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefactor.config import Model
from lakefactor.errors import ConfigError, InputError
from lakefactor.kernels import System, effective_reg
from lakefactor.types import FACTOR_DTYPE, Side


@dataclass(frozen=True)
class Equation:
    """Coefficients of one model's equation.

    Parameters
    ----------
    model : Model
        The configured algorithm.
    mean : float
        Global mean of the strengths, in their unit; used by ``explicit_als`` only.

    References
    ----------
    Hu, Koren, Volinsky, ICDM 2008, eq. 4 (``implicit_als``, c = 1 + alpha*s).
    Rendle, Krichene, Zhang, Koren, RecSys 2022, eq. 4 (``ials``).
    Koren, Bell, Volinsky, IEEE Computer 42(8), 2009, eq. 5 (biases of ``explicit_als``).
    Lee, Seung, NIPS 2000, eq. 1 (``nmf``; a0 = 1). With a0 < 1 it is sum_observed (s - p)^2 + a0 sum_unobserved p^2,
    so w = 1 - a0 and t = s.

    Examples
    --------
    >>> Equation(Model(algorithm="implicit_als", alpha=2.0)).weights(np.array([1.0, 3.0], np.float32))
    array([2., 6.], dtype=float32)
    """

    model: Model
    mean: float = 0.0

    @property
    def biased(self) -> bool:
        """Whether the last column of a factor matrix is the row's bias."""
        return self.model.algorithm == "explicit_als"

    @property
    def columns(self) -> int:
        """Columns of a factor matrix: the rank, and one more for a bias."""
        return self.model.rank + self.biased

    @property
    def a0(self) -> float:
        """Weight of every (user, item) pair."""
        model = self.model
        return {"implicit_als": 1.0, "explicit_als": 0.0}.get(model.algorithm, model.unobserved_weight)

    @property
    def nonnegative(self) -> bool:
        """Whether factors are >= 0."""
        return self.model.algorithm == "nmf"

    def check(self, smallest: float) -> None:
        """Raise ConfigError or InputError where a model has no meaning; ``smallest`` is the least strength of all.

        Weights below 0, too, are none: the more wrong a prediction, the better.
        """
        if self.nonnegative and self.a0 > 1:
            raise ConfigError(
                f"model.unobserved_weight is {self.a0:g}; nmf needs 0 < unobserved_weight <= 1, as the weight of an "
                "observed pair is 1."
            )
        used = self.model.algorithm == "nmf" or (self.model.feedback == "implicit" and self.model.strength == "value")
        if used and smallest < 0:
            raise InputError(
                f"found a strength of {smallest:g}; {self.model.algorithm} needs strengths of 0 or more. Correct the "
                'interactions, or use model.algorithm = "explicit_als".'
            )

    def system(
        self,
        side: Side,
        indptr: NDArray[np.int64],
        indices: NDArray[np.int32],
        strengths: NDArray[np.float32],
        n_source: int,
    ) -> System:
        """Return the equations of some rows of ``side``, given as CSR; ``n_source`` rows are on the other side."""
        n_entries = np.diff(indptr)
        return System(
            indptr,
            indices,
            self.weights(strengths),
            self.targets(strengths),
            self.reg(side, n_entries, n_source),
            self.bias_reg(side, n_entries, n_source),
            self.biased,
        )

    def weights(self, strengths: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return w, float32, shape of ``strengths``, >= 0."""
        if self.model.algorithm == "explicit_als":
            return np.ones_like(strengths)
        if self.nonnegative:
            return np.full_like(strengths, 1 - self.a0)
        used = np.ones_like(strengths) if self.model.strength == "binary" else strengths
        return FACTOR_DTYPE(self.model.alpha) * used

    def targets(self, strengths: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return t, float32, shape of ``strengths``."""
        if self.model.algorithm == "explicit_als":
            return strengths - FACTOR_DTYPE(self.mean)
        if self.nonnegative:
            return strengths
        weights = self.weights(strengths)
        return weights + FACTOR_DTYPE(1) if self.model.algorithm == "implicit_als" else weights

    def constant(self, strengths: NDArray[np.float32]) -> float:
        """Return the sum of c_e over entries: what the objective is when every prediction is 0."""
        targets = self.targets(strengths).astype(np.float64)
        return float(np.square(targets).sum() if self.biased or self.nonnegative else targets.sum())

    def reg(self, side: Side, n_entries: NDArray[np.int64], n_source: int) -> NDArray[np.float32]:
        """Return lambda of each row, float32, for factors of ``side`` solved against ``n_source`` rows."""
        base = self.model.user_reg if side == "user" else self.model.item_reg
        return self._effective(n_entries, base, n_source)

    def bias_reg(self, side: Side, n_entries: NDArray[np.int64], n_source: int) -> NDArray[np.float32]:
        """Return lambda of each row's last column: the bias's where there is one, else that of the factors."""
        if not self.biased:
            return self.reg(side, n_entries, n_source)
        return self._effective(n_entries, self.model.bias_reg, n_source)

    def tempered(self, items: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the item factors that scores use, y / |y|^p with p the model's ``item_norm_exponent`` < 1.

        The norm of a trained item grows with its popularity, on sparse data by more than helps a ranking; p takes a
        part of that back. Nothing is lost: `untempered` returns y, which is what the equation needs as its source.

        Examples
        --------
        >>> equation = Equation(Model(item_norm_exponent=0.5))
        >>> equation.tempered(np.array([[9.0, 0.0], [0.0, 4.0]], np.float32))
        array([[3., 0.],
               [0., 2.]], dtype=float32)
        """
        p = self.model.item_norm_exponent
        return _times_norm(items, -p) if p else items

    def untempered(self, items: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return y from y / |y|^p: |y / |y|^p| is |y|^(1 - p), so |y|^p is its power p / (1 - p)."""
        p = self.model.item_norm_exponent
        return _times_norm(items, p / (1 - p)) if p else items

    def _effective(self, n_entries: NDArray[np.int64], base: float, n_source: int) -> NDArray[np.float32]:
        offset = self.a0 * n_source if self.model.algorithm == "ials" else 0.0
        return effective_reg(n_entries, base, self.model.reg_exponent, offset)


def _times_norm(rows: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    """Return each row times its length to a power; zero rows stay zero."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows * np.where(norms > 0, norms, 1.0) ** power).astype(FACTOR_DTYPE)
