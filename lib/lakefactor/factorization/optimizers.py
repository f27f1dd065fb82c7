"""Update rules of stochastic gradient descent, row by row, as pure functions.

Each row is its own optimizer: a rule sees the row, its gradient and its own state, and nothing else. So rows may be
updated in any company and at any time, a row without a gradient keeps row and state, and the same calls give the same
bits again: state can be stored beside the factors, moved with them and replayed. There is no clock; where a rule needs
to know how often it was used (Adam's bias correction), it counts in the row's state.

On one row, every rule is torch.optim's of the same name (SGD, SGD with momentum, Adagrad, RMSprop, Adam). Where all
rows have a gradient at every step, Adam is torch.optim.SparseAdam as well; SparseAdam's own count is of all steps, this
one is of the row's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lakefactor.config import Sgd
from lakefactor.config.model_sections import Optimizer

RowState = dict[str, Tensor]
"""Named arrays with one row for each row of factors."""

ADAGRAD_EPSILON = 1e-10
EPSILON = 1e-8
"""Added to the root of the squared gradients, as torch.optim's defaults."""


@dataclass(frozen=True)
class Rule:
    """One update rule.

    Attributes
    ----------
    step : callable
        ``(config, gradient, state) -> (direction, state)``; rows move by ``-learning_rate * direction``.
    arrays : tuple of str
        State of the shape of the factors, float32, zero at the start.
    counts : bool
        The state also has ``steps``, float32, shape (n,): how often each row was updated (exact up to 2^24).
    """

    step: Callable[[Sgd, Tensor, RowState], tuple[Tensor, RowState]]
    arrays: tuple[str, ...] = ()
    counts: bool = False


def initial_state(optimizer: Optimizer, n: int, columns: int) -> RowState:
    """Return the state of ``n`` rows that were never updated.

    Examples
    --------
    >>> {name: tuple(array.shape) for name, array in initial_state("adam", 3, 2).items()}
    {'velocity': (3, 2), 'squares': (3, 2), 'steps': (3,)}
    """
    rule = RULES[optimizer]
    state = {name: torch.zeros(n, columns) for name in rule.arrays}
    return state | ({"steps": torch.zeros(n)} if rule.counts else {})


def update(config: Sgd, rows: Tensor, gradient: Tensor, state: RowState) -> tuple[Tensor, RowState]:
    """Return rows and state after one step; nothing is changed in place.

    Parameters
    ----------
    config : Sgd
        ``optimizer``, ``learning_rate``, ``momentum``, ``decay`` and ``clip_norm`` are used.
    rows, gradient : float32 Tensor, shape (n, columns)
        Factors, and the gradient of the loss for each of them: the sum over the samples of a step.
    state : RowState
        The rows' own state, from :func:`initial_state` or an earlier update.

    Examples
    --------
    >>> rows, gradient = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 4.0]])
    >>> update(Sgd(optimizer="sgd", learning_rate=0.5, clip_norm=1.0), rows, gradient, {})[0]
    tensor([[0.7000, 0.6000]])
    """
    direction, state = RULES[config.optimizer].step(config, clipped(gradient, config.clip_norm), state)
    return rows - config.learning_rate * direction, state


def state_width(optimizer: Optimizer, columns: int) -> int:
    """Return how many numbers the state of one row has."""
    rule = RULES[optimizer]
    return len(rule.arrays) * columns + rule.counts


def to_rows(optimizer: Optimizer, state: RowState) -> Tensor:
    """Return the state of each row in one line, float32, shape (n, `state_width`), as Delta keeps it.

    >>> to_rows("adam", initial_state("adam", 1, 2))
    tensor([[0., 0., 0., 0., 0.]])
    """
    rule = RULES[optimizer]
    counts = [state["steps"][:, None]] if rule.counts else []
    return torch.cat([*(state[name] for name in rule.arrays), *counts], dim=1)


def from_rows(optimizer: Optimizer, lines: Tensor) -> RowState:
    """Return the state from what `to_rows` made of it; zeros are the state of rows that were never updated."""
    rule = RULES[optimizer]
    columns = (lines.shape[1] - rule.counts) // max(len(rule.arrays), 1)
    state = {name: lines[:, i * columns : (i + 1) * columns] for i, name in enumerate(rule.arrays)}
    return state | ({"steps": lines[:, -1]} if rule.counts else {})


def clipped(gradient: Tensor, largest: float) -> Tensor:
    """Return the gradient with rows longer than ``largest`` shortened to it; 0: as it is."""
    if largest == 0:
        return gradient
    length = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    return gradient * (largest / length.clamp(min=largest))


def _sgd(config: Sgd, gradient: Tensor, state: RowState) -> tuple[Tensor, RowState]:
    """Robbins and Monro, Annals of Mathematical Statistics 22(3), 1951."""
    return gradient, {}


def _momentum(config: Sgd, gradient: Tensor, state: RowState) -> tuple[Tensor, RowState]:
    """Polyak, USSR Computational Mathematics 4(5), 1964: v = momentum v + g."""
    velocity = config.momentum * state["velocity"] + gradient
    return velocity, {"velocity": velocity}


def _adagrad(config: Sgd, gradient: Tensor, state: RowState) -> tuple[Tensor, RowState]:
    """Duchi, Hazan, Singer, JMLR 12, 2011, diagonal: g / sqrt(sum of g^2)."""
    squares = state["squares"] + gradient.square()
    return gradient / (squares.sqrt() + ADAGRAD_EPSILON), {"squares": squares}


def _rmsprop(config: Sgd, gradient: Tensor, state: RowState) -> tuple[Tensor, RowState]:
    """Tieleman and Hinton, Coursera lecture 6.5, 2012: g / sqrt(decaying mean of g^2)."""
    squares = torch.lerp(gradient.square(), state["squares"], config.decay)
    return gradient / (squares.sqrt() + EPSILON), {"squares": squares}


def _adam(config: Sgd, gradient: Tensor, state: RowState) -> tuple[Tensor, RowState]:
    """Kingma and Ba, ICLR 2015, algorithm 1, with beta1 = momentum and beta2 = decay."""
    steps = state["steps"] + 1
    velocity = torch.lerp(gradient, state["velocity"], config.momentum)
    squares = torch.lerp(gradient.square(), state["squares"], config.decay)
    # In float64: 1 - decay^steps of a decay near 1 would lose its digits.
    unbiased = (1 - torch.pow(config.momentum, steps.double()), 1 - torch.pow(config.decay, steps.double()))
    first, second = (factor.float()[:, None] for factor in unbiased)
    direction = (velocity / first) / ((squares / second).sqrt() + EPSILON)
    return direction, {"velocity": velocity, "squares": squares, "steps": steps}


RULES: dict[Optimizer, Rule] = {
    "sgd": Rule(_sgd),
    "momentum": Rule(_momentum, ("velocity",)),
    "adagrad": Rule(_adagrad, ("squares",)),
    "rmsprop": Rule(_rmsprop, ("squares",)),
    "adam": Rule(_adam, ("velocity", "squares"), counts=True),
}
