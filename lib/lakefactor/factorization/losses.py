"""Losses of stochastic gradients, and their derivatives by the scores.

A sample is one entry (its score p) and, for the losses that know only what was observed, some items that the user has
not (their scores q). Logarithms and sigmoids never overflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

Loss = Literal["squared", "logistic", "bpr", "softmax"]

Value = tuple[Tensor, Tensor, Tensor]
"""Loss of each entry, its derivative by p, both of shape (b,), and by q, shape (b, n)."""


def squared(positive: Tensor, negative: Tensor, used: Tensor, weights: Tensor, targets: Tensor) -> Value:
    """Return (p - target)^2, as ``explicit_als`` (Koren, Bell, Volinsky, IEEE Computer 42(8), 2009, eq. 5)."""
    errors = positive - targets
    return weights * errors.square(), 2 * weights * errors, negative


def logistic(positive: Tensor, negative: Tensor, used: Tensor, weights: Tensor, targets: Tensor) -> Value:
    """Return -w ln s(p) - sum ln s(-q), s the sigmoid (Johnson, NIPS workshop 2014, with sampled negatives)."""
    value = weights * softplus(-positive) + (used * softplus(negative)).sum(1)
    return value, -weights * (-positive).sigmoid(), used * negative.sigmoid()


def bpr(positive: Tensor, negative: Tensor, used: Tensor, weights: Tensor, targets: Tensor) -> Value:
    """Return -w sum ln s(p - q) (BPR-Opt of Rendle et al., UAI 2009, section 4.1; LearnBPR samples its terms)."""
    behind = negative - positive[:, None]
    weights = weights[:, None] * used
    slope = weights * behind.sigmoid()
    return (weights * softplus(behind)).sum(1), -slope.sum(1), slope


def softmax(positive: Tensor, negative: Tensor, used: Tensor, weights: Tensor, targets: Tensor) -> Value:
    """Return -w ln(e^p / (e^p + sum e^q)): the sampled softmax (Bengio and Senecal, IEEE TNN 19(4), 2008)."""
    scores = torch.cat([positive[:, None], negative.masked_fill(used == 0, -torch.inf)], 1)
    logs = scores.log_softmax(1)
    slope = weights[:, None] * logs.exp()
    return -weights * logs[:, 0], slope[:, 0] - weights, slope[:, 1:]


LOSSES: dict[Loss, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Value]] = {
    "squared": squared,
    "logistic": logistic,
    "bpr": bpr,
    "softmax": softmax,
}
"""Called with scores p (b,) and q (b, n), ``used`` (b, n) 0 where a q does not count, weights w (b,), targets (b,)."""
