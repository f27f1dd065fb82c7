"""The laws of the generator; bounds come from the binomial and chi-squared distributions."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy import stats

from lakefactor.config import Synthetic
from lakefactor.errors import UnknownIdError
from lakefactor.synthetic import (
    BATCH_EVENTS,
    EVENT_TYPES,
    SCHEMA,
    TYPE_CHANCES_INSIDE,
    TYPE_CHANCES_OUTSIDE,
    generate,
    generate_batches,
    plant,
)

FALSE_ALARM = 1e-6
"""Chance that a bound fails a right generator, were the seed another one."""

CONFIG = Synthetic(users=800, items=300, events=60_000, groups=10, popularity_exponent=0.9, drift=0.25, seed=11)


def numbers(column):
    """Return the numbers at the end of ids."""
    return pc.cast(pc.utf8_slice_codeunits(column, 5), pa.int64()).to_numpy()


def moments(events, config):
    """Return the place of each event in the history, in [0, 1]."""
    start = datetime(2025, 1, 1, tzinfo=timezone.utc)
    micros = pc.subtract(events["timestamp"], pa.scalar(start, SCHEMA.field("timestamp").type)).cast(pa.int64())
    return micros.to_numpy() / (config.days * 86_400e6)


def in_own_groups(events, config):
    """Say for each event whether its item belongs to the groups that its user liked at the time."""
    planted = plant(config)
    user, group = numbers(events["user"]), planted.item_group[numbers(events["item"])]
    early = moments(events, config) < 0.5
    taste = np.where(early[:, None], planted.taste_before[user], planted.taste_after[user])
    return (group[:, None] == taste).any(axis=1)


def assert_binomial(successes, n, chance):
    low, high = stats.binom.interval(1 - FALSE_ALARM, n, chance)
    assert low <= successes <= high


@pytest.fixture(scope="module")
def events():
    return generate(CONFIG)


def test_shape_and_order(events):
    assert events.schema == SCHEMA
    assert events.num_rows == CONFIG.events
    when = moments(events, CONFIG)
    assert (np.diff(when) >= 0).all()
    assert 0 <= when[0] < 0.001
    assert 0.999 < when[-1] <= 1
    assert all(column.null_count == 0 for column in events.columns)


@pytest.mark.parametrize("affinity", [0.0, 0.3, 0.8, 1.0])
def test_share_of_events_in_own_groups_is_the_affinity(affinity):
    config = CONFIG.model_copy(update={"affinity": affinity})
    assert_binomial(in_own_groups(generate(config), config).sum(), config.events, affinity)


def test_item_weights_are_the_power_law():
    weight = np.sort(plant(CONFIG).item_weight)[::-1]
    np.testing.assert_allclose(weight, [rank**-0.9 for rank in range(1, 301)], rtol=1e-12)


def test_items_inside_a_group_are_drawn_by_their_weights(events):
    planted, inside = plant(CONFIG), in_own_groups(events, CONFIG)
    item = numbers(events["item"])[inside]
    for group in range(CONFIG.groups):
        members = np.flatnonzero(planted.item_group == group)
        drawn = np.bincount(item, minlength=CONFIG.items)[members]
        chances = planted.item_weight[members] / planted.item_weight[members].sum()
        assert stats.chisquare(drawn, drawn.sum() * chances).pvalue > FALSE_ALARM


@pytest.mark.parametrize("exponent", [0.0, 0.6, 1.2])
def test_popularity_falls_with_the_exponent(exponent):
    config = CONFIG.model_copy(update={"popularity_exponent": exponent, "users": 20_000, "events": 400_000})
    counts = np.sort(np.bincount(numbers(generate(config)["item"]), minlength=config.items))[::-1]
    slope = np.polyfit(np.log(np.arange(1, 201)), np.log(counts[:200]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)


def test_items_of_a_group_are_neither_all_popular_nor_all_rare():
    planted = plant(CONFIG)
    rank = np.argsort(np.argsort(-planted.item_weight))
    # Dealt in turn: 300 items in 10 groups of 30, each with one of the ten most popular.
    assert np.bincount(planted.item_group).tolist() == [30] * 10
    assert sorted(planted.item_group[rank < 10]) == list(range(10))


def test_users_like_one_or_two_groups():
    config = CONFIG.model_copy(update={"users": 20_000, "drift": 0.0})
    planted = plant(config)
    group_weight = np.bincount(planted.item_group, planted.item_weight)
    same = ((group_weight / group_weight.sum()) ** 2).sum()
    two = (planted.taste_before[:, 0] != planted.taste_before[:, 1]).sum()
    assert_binomial(two, config.users, 0.5 * (1 - same))
    np.testing.assert_array_equal(planted.taste_before, planted.taste_after)


def test_drift_gives_exactly_its_share_of_users_a_new_group():
    planted = plant(CONFIG)
    changed = (planted.taste_before != planted.taste_after).any(axis=1)
    assert changed.sum() == round(0.25 * 800)
    old, new = planted.taste_before[changed], planted.taste_after[changed]
    assert (new[:, 0] == new[:, 1]).all()
    assert (new[:, :1] != old).all()


def test_the_second_half_follows_the_new_taste():
    config = CONFIG.model_copy(update={"affinity": 1.0, "drift": 1.0})
    events, planted = generate(config), plant(config)
    group = planted.item_group[numbers(events["item"])]
    early = moments(events, config) < 0.5
    old, new = planted.taste_before[numbers(events["user"])], planted.taste_after[numbers(events["user"])]
    assert (group[early, None] == old[early]).any(axis=1).all()
    assert (group[~early] == new[~early, 0]).all()


def test_stronger_event_types_are_more_often_in_own_groups(events):
    inside = in_own_groups(events, CONFIG)
    types = events["event_type"].to_numpy()
    assert pc.unique(events["value"]).to_pylist() == [1.0]
    for part, chances in ((inside, TYPE_CHANCES_INSIDE), (~inside, TYPE_CHANCES_OUTSIDE)):
        for event_type, chance in zip(EVENT_TYPES, chances, strict=True):
            assert_binomial((types[part] == event_type).sum(), part.sum(), chance)


def test_the_seed_decides(events):
    assert generate(CONFIG).equals(events)
    assert not generate(CONFIG.model_copy(update={"seed": 12}))["item"].equals(events["item"])


def test_batches_are_bounded_and_join_in_order():
    config = CONFIG.model_copy(update={"events": BATCH_EVENTS + 7})
    batches = list(generate_batches(config))
    assert [batch.num_rows for batch in batches] == [BATCH_EVENTS, 7]
    assert pa.Table.from_batches(batches).equals(generate(config))
    assert batches[0]["timestamp"][-1].as_py() <= batches[1]["timestamp"][0].as_py()


def test_ratings_are_half_stars_and_higher_in_own_groups():
    events = generate(CONFIG, ratings=True)
    value, inside = events["value"].to_numpy(), in_own_groups(events, CONFIG)
    assert pc.unique(events["event_type"]).to_pylist() == ["rating"]
    assert set(np.unique(value)) == set(np.arange(2, 11) / 2)
    # Twice the group effect is 1.2 stars; clipping at 1 and 5 takes a little of it.
    assert 1.0 < value[inside].mean() - value[~inside].mean() < 1.2


@pytest.mark.parametrize(
    "sizes",
    [
        {"users": 1, "items": 1, "events": 1, "groups": 1},
        {"users": 5, "items": 2, "events": 50, "groups": 2, "affinity": 0.0, "drift": 1.0},
        {"users": 1, "items": 7, "events": 20, "groups": 7, "popularity_exponent": 5.0},
    ],
)
def test_smallest_worlds(sizes):
    events = generate(Synthetic(**sizes))
    assert events.num_rows == sizes["events"]
    assert numbers(events["item"]).max() < sizes["items"]


def test_ids_keep_their_form():
    users = generate(Synthetic(users=100_001, items=3, groups=1, events=5_000))["user"].to_pylist()
    assert {len(user) for user in users} == {len("user-00000")}
    planted = plant(Synthetic(users=100_001, items=3, groups=1))
    assert planted.groups_of_user("user-100000") == {0}
    assert planted.group_of_item("item-00002") == 0


@pytest.mark.parametrize(
    "unknown", ["item-00300", "item-7", "user-00001", "item-000007", "item--0001", "", "item-0000²"]
)
def test_unknown_ids_are_named(unknown):
    with pytest.raises(UnknownIdError, match=r"is not a synthetic item; ids run from item-00000 to item-00299"):
        plant(CONFIG).group_of_item(unknown)


def test_recommendations_in_own_groups_are_counted():
    planted = plant(CONFIG)
    groups = planted.groups_of_user("user-00042")
    own = [f"item-{i:05d}" for i in np.flatnonzero(np.isin(planted.item_group, list(groups)))[:8]]
    other = [f"item-{i:05d}" for i in np.flatnonzero(~np.isin(planted.item_group, list(groups)))[:2]]
    assert planted.n_in_own_groups("user-00042", own + other) == 8
