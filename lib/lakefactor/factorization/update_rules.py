"""How touched rows of the live model are updated, holding the other side fixed; one interface for all rules.

A row x has interactions of which some, R, changed in this micro-batch. With l_e(x) = w_e p_e^2 - 2 t_e p_e an entry's
part of the objective (`equation`), by its strength now, and L(x) = a0 x'Y'Yx + lambda |x|^2 what a row's entries share:

``exact``
    x minimises L + sum l_e over the row's whole history. What came before does not matter, nor does the order of the
    events. A row without history becomes zero.
``proximal``
    x minimises, with n the interactions that stay as they were and x_old taken as the solution so far::

        (x - x_old)'(a0 Y'Y + lambda + rho n D)(x - x_old) + sum_R l_e

    rho n D stands for the curvature of interactions that are not read again, D for that of one of them
    (`proximal.curvature`): rho = 1 takes them to be like those of R. Where nothing stays (n = 0: a new row, or the
    whole history is given) x_old has nothing to say, and the rule is ``exact`` on R, for any rho.
``sgd``, ``momentum``, ``adagrad``, ``rmsprop``, ``adam``
    One step (`optimizers`) on the gradient at x_old of sum_R l_e, and of L by the share of R among the row's entries:
    over a row's life every entry brings its own part of L.

For the rules without a history, an interaction that changed pulls towards its strength now; what it did to the row
before stays in x_old. One that was removed is taken back: it pushes as hard as it would pull (`row_entries.pulls`).

References
----------
Parikh, Boyd, "Proximal algorithms", Foundations and Trends in Optimization 1(3), 2014, section 1.
Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35(1), 1964; weights by iterated
least squares as in Holland, Welsch, Communications in Statistics 6(9), 1977.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lakefactor.config import Stream
from lakefactor.config.model_sections import Optimizer
from lakefactor.config.stream_section import Rule
from lakefactor.errors import ConfigError, ShapeError
from lakefactor.factorization.gradient_step import step
from lakefactor.factorization.live_model import LiveModel
from lakefactor.factorization.proximal import solve_near
from lakefactor.factorization.row_entries import Entries, Float32s, Int64s
from lakefactor.factorization.safeguards import bound_change
from lakefactor.types import Side

__all__ = ["Entries", "Updated", "is_heavy", "rule_of", "update"]


@dataclass(frozen=True)
class Updated:
    """New numbers of some rows, as `LiveModel.replace` takes them.

    Attributes
    ----------
    rows : int64 ndarray, shape (n,)
    factors : float32 ndarray, shape (n, columns)
    n_entries : int64 ndarray, shape (n,)
        Interactions that each row has now.
    rules : str ndarray, shape (n,)
        Rule that made each row.
    optimizer_state : float32 ndarray, shape (n, width), or None
        None for rules without a state.
    bounded : bool ndarray, shape (n,)
        Whether ``stream.max_change`` shortened the row's change.
    huber : int64 ndarray, shape (n,)
        Entries of the row that weigh less by ``stream.huber``.
    """

    rows: Int64s
    factors: Float32s
    n_entries: Int64s
    rules: NDArray[np.str_]
    optimizer_state: Float32s | None
    bounded: NDArray[np.bool_]
    huber: Int64s


def rule_of(settings: Stream, side: Side) -> Rule:
    """Return the configured rule of a side."""
    return settings.user_rule if side == "user" else settings.item_rule


def is_heavy(live: LiveModel, side: Side, rows: Int64s, settings: Stream) -> NDArray[np.bool_]:
    """Return which rows have too many interactions to be solved anew: their histories need not be read."""
    return live.n_entries(side, rows) > settings.exact_max_entries


def update(
    live: LiveModel,
    side: Side,
    rows: Int64s,
    history: Entries | None,
    recent: Entries,
    settings: Stream,
    threads: int = 1,
) -> Updated:
    """Return what the side's rule makes of some rows; the live model is not changed.

    Parameters
    ----------
    live : LiveModel
    side : {"user", "item"}
    rows : int64 ndarray, shape (n,)
        Distinct rows.
    history : Entries or None
        All interactions of the rows as they are now; needed by ``exact`` only, and there not of heavy rows.
    recent : Entries
        Interactions that changed.
    settings : Stream
    threads : int

    Raises
    ------
    ConfigError
        ``stream.huber`` without ratings.
    ShapeError
        The rule is ``off``, or ``exact`` without a history; or entries of another number of rows.
    InputError
        Strengths that the model cannot use.
    SolveError
        A row's equations are singular.
    """
    rule = rule_of(settings, side)
    _check(live, side, rule, rows, history, recent, settings)
    old = live.source(side)[rows]
    counts = np.maximum(live.n_entries(side, rows) + recent.count_now() - recent.count_before(), 0)
    state = None
    if rule in settings.optimizers:
        new, state, huber = step(live, side, cast(Optimizer, rule), rows, recent, counts, settings)
        rules = np.full(len(rows), rule)
    else:
        exact = np.zeros(len(rows), bool)
        if history is not None and rule == "exact":
            heavy = is_heavy(live, side, rows, settings)
            exact = ~heavy & (history.lengths <= settings.exact_max_entries)
            counts = np.where(heavy, counts, history.lengths)
        stay = np.where(exact, 0, counts - recent.count_now())
        new, huber = np.empty_like(old), np.zeros(len(rows), np.int64)
        for some, entries in ((np.flatnonzero(exact), history), (np.flatnonzero(~exact), recent)):
            if entries is not None and len(some):
                new[some], huber[some] = solve_near(
                    live, side, old[some], entries.take(some), counts[some], stay[some], settings.rho, settings.huber,
                    threads,
                )  # fmt: skip
        rules = np.where(exact, "exact", "proximal")
    new, bounded = bound_change(old, new, settings.max_change)
    return Updated(rows, new, counts, rules, state, bounded, huber)


def _check(
    live: LiveModel,
    side: Side,
    rule: Rule,
    rows: Int64s,
    history: Entries | None,
    recent: Entries,
    settings: Stream,
) -> None:
    """Raise what `update` says."""
    if rule == "off" or (rule == "exact" and history is None):
        raise ShapeError(f"stream.{side}_rule is {rule}, {'with' if history else 'without'} histories: cannot update.")
    if settings.huber and not live.equation.biased:
        raise ConfigError(
            f"stream.huber is for ratings, but model.algorithm is {live.model.algorithm}: set stream.huber to 0"
        )
    for entries in (history, recent):
        if entries is None:
            continue
        if len(entries.indptr) != len(rows) + 1:
            raise ShapeError(f"{len(entries.indptr) - 1} rows of entries for {len(rows)} {side} rows.")
        smallest = float(np.nanmin(entries.strengths, initial=np.inf))
        live.equation.check(min(smallest, 0.0))
