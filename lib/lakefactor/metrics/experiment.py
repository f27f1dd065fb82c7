"""A/B tests: who sees which variant, whether the shares are as planned, and what the outcomes say at any time.

Outcomes are summed per variant (`Outcomes`), so that they add up over days and partitions.

References
----------
Kohavi, Tang, Xu, "Trustworthy Online Controlled Experiments", 2020.
Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences",
Annals of Statistics 52(6), 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log, nan, sqrt
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefactor.contracts.assignment import number_at, place
from lakefactor.errors import InputError

SUSPECT = 1e-3
"""Sample ratios that are less likely say that users were lost or added on the way."""


def assign(ids: pa.Array[Any], salt: str, shares: Sequence[float]) -> NDArray[np.int64]:
    """Assign users to variants, by the hash of salt and id alone: `lakefactor.contracts.assignment`, for many users.

    Parameters
    ----------
    ids : pyarrow array of texts or integers, shape (n,)
        Without nulls.
    salt : str
        Name of the experiment; another one gives an independent assignment.
    shares : sequence of float
        Of each variant, all > 0; they are scaled to add up to 1.

    Returns
    -------
    int64 array, shape (n,)
        Number of each user's variant.

    Raises
    ------
    InputError
        A share is not positive, or there is none.

    Examples
    --------
    >>> users = pa.array(["ann", "bob", "cy"])
    >>> bool((assign(users, "s", (1, 1))[2:] == assign(users[2:], "s", (1, 1))).all())
    True
    """
    scaled = _shares(shares).tolist()
    return np.array([number_at(place(user, salt), scaled) for user in ids.to_pylist()], np.int64)


def sample_ratio_p_value(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Return how likely counts of users are, or less likely ones, if the assignment is as planned (chi-square test).

    Below `SUSPECT` it says that users were lost or added on the way: no outcome can be trusted then.

    Parameters
    ----------
    counts : sequence of int
        Users of each variant; of a variant at least 5 should be expected.
    shares : sequence of float
        As for `assign`.

    Returns
    -------
    float
        In [0, 1]; NaN without users.

    References
    ----------
    Fabijan et al., "Diagnosing sample ratio mismatch in online controlled experiments", KDD 2019.

    Examples
    --------
    >>> f"{sample_ratio_p_value([821_588, 815_482], [1, 1]):.1e}"  # the example of Kohavi et al., chapter 21
    '1.8e-06'
    """
    from scipy.stats import chisquare

    total = sum(counts)
    return float(chisquare(counts, _shares(shares) * total).pvalue) if total else nan


@dataclass(frozen=True)
class Outcomes:
    """What the users of a variant did, summed up.

    Attributes
    ----------
    users : int
        How many.
    total : float
        Sum of their outcomes, one value per user.
    squares : float
        Sum of the squares.
    """

    users: int
    total: float
    squares: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> Outcomes:
        """Sum up one value per user."""
        found = np.asarray(values, np.float64)
        return cls(len(found), float(found.sum()), float(found @ found))

    def __add__(self, other: Outcomes) -> Outcomes:
        """Add other users."""
        return Outcomes(self.users + other.users, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float:
        """Mean outcome; NaN without users."""
        return self.total / self.users if self.users else nan

    @property
    def variance(self) -> float:
        """Unbiased variance of one user's outcome; NaN below two users."""
        if self.users < 2:
            return nan
        return max(self.squares - self.users * self.mean**2, 0.0) / (self.users - 1)


@dataclass(frozen=True)
class Comparison:
    """How much better the treatment is than the control.

    Attributes
    ----------
    difference : float
        Of the means.
    low, high : float
        Interval of the difference.
    """

    difference: float
    low: float
    high: float

    @property
    def is_decided(self) -> bool:
        """Whether the interval excludes that there is no difference."""
        return self.low > 0 or self.high < 0


def compare(control: Outcomes, treatment: Outcomes, level: float = 0.95) -> Comparison:
    """Compare means by Welch's interval: right when it is looked at once, at a time that was fixed before.

    Parameters
    ----------
    control, treatment : Outcomes
    level : float, optional
        Confidence, in (0, 1).

    Returns
    -------
    Comparison
        Infinitely wide below two users of a variant.

    Examples
    --------
    >>> found = compare(Outcomes.of(np.array([1.0, 2, 3])), Outcomes.of(np.array([4.0, 5, 6])))
    >>> found.difference, round(found.low, 3), found.is_decided
    (3.0, 0.733, True)
    """
    from scipy.stats import t

    variances = [one.variance / one.users if one.users else nan for one in (control, treatment)]
    error = sqrt(sum(variances)) if not np.isnan(variances).any() else inf
    if error in (0.0, inf):
        return _around(control, treatment, error)
    freedom = sum(variances) ** 2 / sum(
        variance**2 / (one.users - 1) for variance, one in zip(variances, (control, treatment), strict=True)
    )
    return _around(control, treatment, float(t.ppf((1 + level) / 2, freedom)) * error)


def p_value(control: Outcomes, treatment: Outcomes) -> float:
    """Return how likely a difference as large, or larger, is without any (Welch's t-test, two-sided).

    Right when it is looked at once, as `compare`. NaN below two users of a variant, or where no outcome varies.

    Examples
    --------
    >>> round(p_value(Outcomes.of(np.array([1.0, 2, 3])), Outcomes.of(np.array([4.0, 5, 6]))), 4)
    0.0213
    """
    from scipy.stats import ttest_ind_from_stats

    variances = [one.variance for one in (control, treatment)]
    if np.isnan(variances).any() or not any(variances):
        return nan
    stats = [part for one in (control, treatment) for part in (one.mean, sqrt(one.variance), one.users)]
    return float(ttest_ind_from_stats(*stats, equal_var=False).pvalue)


def compare_any_time(control: Outcomes, treatment: Outcomes, planned_users: int, level: float = 0.95) -> Comparison:
    """Compare means by a confidence sequence: right however often, and whenever, it is looked at.

    Asymptotic (Waudby-Smith et al., Theorem 2.2): after t users with variance s^2 of the difference's influence, the
    half-width is ``s sqrt(2 (t r^2 + 1) / (t^2 r^2) log(sqrt(t r^2 + 1) / alpha))``, with r chosen (their equation
    for the optimal rho) so that it is narrowest at ``planned_users``.

    Parameters
    ----------
    control, treatment : Outcomes
    planned_users : int
        Of both variants together, at which the test should be sharpest; any number >= 1 is right.
    level : float, optional
        Probability that the true difference is inside at all times, in (0, 1).

    Returns
    -------
    Comparison
        Infinitely wide below two users of a variant.
    """
    alpha, users = 1 - level, control.users + treatment.users
    variances = [one.variance / one.users if one.users else nan for one in (control, treatment)]
    if np.isnan(variances).any():
        return _around(control, treatment, inf)
    rho_squared = (-2 * log(alpha) + log(-2 * log(alpha) + 1)) / planned_users
    spread = users * rho_squared + 1
    factor = sqrt(2 * spread / (users * rho_squared) * log(sqrt(spread) / alpha))
    return _around(control, treatment, sqrt(sum(variances)) * factor)


def _around(control: Outcomes, treatment: Outcomes, half_width: float) -> Comparison:
    difference = treatment.mean - control.mean
    return Comparison(difference, difference - half_width, difference + half_width)


def _shares(shares: Sequence[float]) -> NDArray[np.float64]:
    found = np.asarray(shares, np.float64)
    if not len(found) or not (found > 0).all() or not np.isfinite(found).all():
        raise InputError(f"shares of variants are {list(shares)}; give a positive number for each")
    return found / found.sum()
