"""Why a user's score of an item is what it is: what each of the user's interactions adds to it.

A user's factors solve A x = sum_e t_e y_e, so a score is a sum over the interactions that the user has::

    y_i'x = sum_e t_e y_i' A^-1 y_e

Nothing is approximated: the parts sum to the score.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from lakefactor.config import Model
from lakefactor.errors import ConfigError
from lakefactor.factorization.catalogue import Catalogue
from lakefactor.factorization.equation import Equation
from lakefactor.factorization.fold_in import FoldIn, user_fold_in
from lakefactor.factorization.tfidf import inverse_document_frequency, row_values

Float64s = NDArray[np.float64]


class Explainer:
    """Explains the scores of one catalogue.

    Parameters
    ----------
    model : Model
    mean : float
        The mean that it was trained with, part of every score of an explicit model.
    catalogue : Catalogue
        All its items.
    n_users : int
        Users that it was trained on.

    Raises
    ------
    ConfigError
        A user of this model is no solution of an equation: `sgd`, or a model of ``posterior_draws``.

    References
    ----------
    Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008, section 5.
    """

    def __init__(self, model: Model, mean: float, catalogue: Catalogue, n_users: int) -> None:
        if model.algorithm == "sgd" or model.posterior_draws:
            found = "sgd" if model.algorithm == "sgd" else f"{model.algorithm} with posterior_draws"
            raise ConfigError(
                f"the model is of {found}: its users' factors are not the solution of an equation, so no interaction "
                "has a share of a score; train a least squares model or an svd for explanations"
            )
        self._model, self._catalogue = model, catalogue
        self._equation = Equation(model, mean)
        self._n_users = n_users
        self._targets = catalogue.factors.astype(np.float64)
        self._base = catalogue.bias.astype(np.float64) + self._equation.mean
        if self._is_linear:
            self._idf = inverse_document_frequency(catalogue.n_entries, n_users)
            return
        source = self._equation.untempered(catalogue.factors).astype(np.float64)
        if self._equation.biased:
            ones = np.ones((len(source), 1))
            source, self._targets = np.hstack([source, ones]), np.hstack([self._targets, ones])
        self._source = source
        self._gramian = self._equation.a0 * (source.T @ source)

    def parts(
        self, columns: NDArray[np.int32], strengths: NDArray[np.float32], items: NDArray[np.int32]
    ) -> tuple[Float64s, Float64s]:
        """Return what each interaction of a user adds to the scores of some items.

        Parameters
        ----------
        columns : int32 ndarray, shape (n,)
            Items that the user has interacted with, each once, ascending.
        strengths : float32 ndarray, shape (n,)
        items : int32 ndarray, shape (j,)
            Items whose scores are explained; the user may have interacted with them.

        Returns
        -------
        parts : float64 ndarray, shape (j, n)
        base : float64 ndarray, shape (j,)
            The part that the user has no say in: mean and the item's bias, 0 for implicit models. The score of a user
            who is folded in is ``base + parts.sum(axis=1)``.
        """
        indptr = np.array([0, len(columns)])
        if self._is_linear:
            values = row_values(self._model, self._idf, indptr, columns, strengths).astype(np.float64)
            own = self._targets[columns] * values[:, None]
            return self._targets[items] @ own.T, self._base[items]
        system = self._equation.system("user", indptr, columns, strengths, len(self._source))
        y = self._source[columns]
        reg = np.full(y.shape[1], float(system.reg[0]))
        targets = system.targets.astype(np.float64)
        if self._equation.biased:
            reg[-1] = system.reg_last[0]
            targets -= self._catalogue.bias[columns]
        a = self._gramian + (y.T * system.weights.astype(np.float64)) @ y + np.diag(reg)
        free = np.ones(len(reg), bool)
        if self._equation.nonnegative:  # where x is held at 0, nothing moves it
            free = self._fold_in(indptr, columns, strengths)[0] > 0
        if not free.any():
            return np.zeros((len(items), len(columns))), self._base[items]
        solved = cho_solve(cho_factor(a[np.ix_(free, free)]), (y[:, free] * targets[:, None]).T)
        return self._targets[items][:, free] @ solved, self._base[items]

    @cached_property
    def _fold_in(self) -> FoldIn:
        items = self._catalogue
        return user_fold_in(self._model, self._equation.mean, items.factors, items.bias, items.n_entries, self._n_users)

    @property
    def _is_linear(self) -> bool:
        return self._model.algorithm in ("svd", "lsa")
