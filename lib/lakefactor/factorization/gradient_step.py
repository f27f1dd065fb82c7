"""One step of an optimizer on touched rows: the rules ``sgd`` to ``adam`` of `update_rules`."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from lakefactor.config import Sgd, Stream
from lakefactor.config.model_sections import Optimizer
from lakefactor.factorization.live_model import LiveModel
from lakefactor.factorization.row_entries import (
    Entries,
    Float32s,
    Int64s,
    design,
    huber_weights,
    predictions,
    pulls,
)
from lakefactor.types import FACTOR_DTYPE, Side, other


def step(
    live: LiveModel,
    side: Side,
    rule: Optimizer,
    rows: Int64s,
    recent: Entries,
    counts: Int64s,
    settings: Stream,
) -> tuple[Float32s, Float32s | None, Int64s]:
    """Return the rows after one step, the optimizer's state, and how many entries of each row weigh less.

    Parameters
    ----------
    live, side, rows, recent, settings
        As in `update_rules.update`.
    rule : Optimizer
    counts : int64 ndarray, shape (n,)
        Interactions that each row has now.
    """
    import torch  # a stream without optimizers runs without it

    from lakefactor.factorization import optimizers

    gradient, less = gradients(live, side, rows, recent, counts, settings.huber)
    old = live.source(side)[rows]
    width = optimizers.state_width(rule, old.shape[1])
    state = optimizers.from_rows(rule, torch.from_numpy(live.optimizer_state(side, rows, width)))
    sgd = Sgd(
        optimizer=rule,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        decay=settings.decay,
        clip_norm=settings.clip_norm,
    )
    moved, state = optimizers.update(sgd, torch.from_numpy(old), torch.from_numpy(gradient), state)
    new = moved.numpy()
    if live.equation.nonnegative:
        new = np.maximum(new, FACTOR_DTYPE(0))
    return new, optimizers.to_rows(rule, state).numpy() if width else None, less


def gradients(
    live: LiveModel, side: Side, rows: Int64s, recent: Entries, counts: Int64s, huber: float = 0.0
) -> tuple[Float32s, Int64s]:
    """Return the gradient of each row's share of the objective, and how many entries of each row weigh less.

    Returns
    -------
    gradient : float32 ndarray, shape (n, columns)
        2 (share (a0 Y'Y + lambda) x - sum_R r y), r = t - w p of `row_entries.pulls`; share is that of R among the
        row's entries.
    less : int64 ndarray, shape (n,)
    """
    equation, source = live.equation, live.source(other(side))
    known = predictions(equation, source, live.source(side)[rows], recent)
    old = live.source(side)[rows].astype(np.float64)
    weights, targets = pulls(equation, recent, known)
    errors = targets - weights * known
    robust = huber_weights(errors, huber)
    rest = (robust * errors).astype(np.float64)
    y = design(equation, source[recent.indices])
    pull = csr_matrix((rest, np.arange(len(rest)), recent.indptr), shape=(len(rows), len(rest))) @ y
    reg = np.repeat(equation.reg(side, counts, len(source))[:, None].astype(np.float64), old.shape[1], axis=1)
    reg[:, -1] = equation.bias_reg(side, counts, len(source))
    common = old @ live.scaled_gramian(other(side)).astype(np.float64) + reg * old
    share = recent.count_now() / np.maximum(counts, 1)
    less = np.bincount(recent.owners, robust < 1, len(rows)).astype(np.int64)
    return (2 * (share[:, None] * common - pull)).astype(FACTOR_DTYPE), less
