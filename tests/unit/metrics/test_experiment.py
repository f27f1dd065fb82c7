"""A/B tests: assignments against what chance gives, intervals against scipy and against simulated experiments."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from lakefactor.errors import InputError
from lakefactor.metrics.experiment import Outcomes, assign, compare, compare_any_time, sample_ratio_p_value


@pytest.mark.parametrize("ids", [pa.array([f"u{n}" for n in range(40_000)]), pa.array(np.arange(40_000))])
def test_assignment_is_by_shares_and_independent_between_experiments(ids):
    shares = (1, 2, 1)
    first, second = assign(ids, "first", shares), assign(ids, "second", shares)
    assert sample_ratio_p_value(np.bincount(first), shares) > 1e-3
    table = np.histogram2d(first, second, bins=3)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    some = np.random.default_rng(1).permutation(40_000)[:50]
    np.testing.assert_array_equal(assign(ids.take(pa.array(some)), "first", shares), first[some])


def test_a_larger_share_keeps_who_was_in_it():
    """Ramping up: those who see the treatment at a tenth see it at a half."""
    ids = pa.array([f"u{n}" for n in range(5_000)])
    tenth, half = (assign(ids, "ramp", (share, 1 - share)) == 0 for share in (0.1, 0.5))
    assert (half | ~tenth).all()


def test_lost_users_are_noticed():
    ids = pa.array([f"u{n}" for n in range(20_000)])
    counts = np.bincount(assign(ids, "x", (1, 1)))
    assert sample_ratio_p_value(counts, (1, 1)) > 1e-3
    assert sample_ratio_p_value([counts[0], int(counts[1] * 0.93)], (1, 1)) < 1e-3
    assert np.isnan(sample_ratio_p_value([0, 0], (1, 1)))


@pytest.mark.parametrize("shares", [(), (1, 0), (1, -1), (1, float("inf")), (1, float("nan"))])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(InputError, match="give a positive number for each"):
        assign(pa.array(["u"]), "x", shares)


def test_the_fixed_interval_is_welch_s():
    rng = np.random.default_rng(2)
    control, treatment = rng.exponential(2, 300), rng.exponential(2.5, 200)
    found = compare(Outcomes.of(control), Outcomes.of(treatment[:90]) + Outcomes.of(treatment[90:]), 0.9)
    expected = stats.ttest_ind(treatment, control, equal_var=False).confidence_interval(0.9)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], rtol=1e-9)
    assert found.difference == pytest.approx(treatment.mean() - control.mean())


def test_too_few_users_decide_nothing():
    one, none, some = Outcomes.of(np.array([3.0])), Outcomes.of(np.zeros(0)), Outcomes.of(np.array([1.0, 2.0]))
    for pair in ((one, some), (some, one), (none, some), (none, none)):
        for found in (compare(*pair), compare_any_time(*pair, planned_users=100)):
            assert not found.is_decided


def test_looking_all_the_time_misleads_the_fixed_interval_only():
    """Experiments without a difference, looked at after every 20 users: how many are ever decided."""
    rng = np.random.default_rng(3)
    runs, looks, step = 400, 100, 20
    decided = {"fixed": 0, "any time": 0}
    for _ in range(runs):
        control, treatment = (rng.exponential(1, (looks, step)) for _ in range(2))
        ever = {"fixed": False, "any time": False}
        sums = [Outcomes(0, 0.0, 0.0), Outcomes(0, 0.0, 0.0)]
        for look in range(looks):
            sums = [one + Outcomes.of(values[look]) for one, values in zip(sums, (control, treatment), strict=True)]
            if sums[0].users < 100:
                continue  # the sequence is asymptotic
            ever["fixed"] |= compare(*sums).is_decided
            ever["any time"] |= compare_any_time(*sums, planned_users=2 * looks * step).is_decided
        for name, was in ever.items():
            decided[name] += was
    assert decided["fixed"] > 0.15 * runs
    assert decided["any time"] <= 0.05 * runs


def test_a_real_difference_is_found_and_the_planned_size_is_where_it_is_sharpest():
    rng = np.random.default_rng(4)
    control, treatment = Outcomes.of(rng.normal(0, 1, 5000)), Outcomes.of(rng.normal(0.2, 1, 5000))
    found = compare_any_time(control, treatment, planned_users=10_000)
    assert found.is_decided
    assert found.low < 0.2 < found.high
    widths = {
        planned: compare_any_time(control, treatment, planned).high - found.difference
        for planned in (100, 1_000, 10_000, 100_000, 1_000_000)
    }
    assert min(widths, key=widths.__getitem__) == 10_000
    fixed = compare(control, treatment)
    assert 1 < widths[10_000] / (fixed.high - fixed.difference) < 2
