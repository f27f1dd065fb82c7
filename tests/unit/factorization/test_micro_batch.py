"""A micro-batch on both sides: any order and batching, new users and items together, removals, the same bits again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefactor.config import Stream
from lakefactor.errors import InputError, ShapeError
from lakefactor.factorization.micro_batch import solve_anew, solve_batch
from lakefactor.factorization.safeguards import in_quarantine, newest_events
from lakefactor.testing.live_models import (
    MODELS,
    N_ITEMS,
    N_USERS,
    TABLE,
    by_id,
    changes_of,
    dict_of,
    entries_of,
    live_model,
    oracle_row,
    oracle_solution,
    table_of,
)
from lakefactor.types import SIDES

OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "adam")
STATE = dict_of(TABLE)


def stream(live, events, rules, state=None, shuffle=0, **options):
    """Apply micro-batches of events (user, item, strength or None) to a live model; return the interactions after."""
    state = dict(STATE if state is None else state)
    settings = Stream(user_rule=rules[0], item_rule=rules[1], **options)
    results = []
    for batch in events:
        before = {(user, item): state.get((user, item)) for user, item, _ in batch}
        for user, item, strength in batch:
            if strength is None:
                state.pop((user, item), None)
            else:
                state[user, item] = strength
        changed = [(*pair, old, state.get(pair)) for pair, old in before.items() if old != state.get(pair)]
        if not changed:
            continue
        random = np.random.default_rng(shuffle)
        changes = changes_of([changed[i] for i in random.permutation(len(changed))])
        histories = {}
        for place, side in enumerate(SIDES):
            touched = {change[place] for change in changed}
            rows = table_of({pair: strength for pair, strength in state.items() if pair[place] in touched})
            histories[side] = rows.take(pa.array(random.permutation(rows.num_rows), pa.int64()))
        results.append(solve_batch(live, changes, histories, settings))
    return state, results


USERS = st.integers(0, N_USERS + 3).map("u-{}".format)
ITEMS = st.integers(0, N_ITEMS - 1).map("i-{}".format)
EVENTS = st.lists(st.tuples(USERS, ITEMS, st.sampled_from([None, 1.0, 2.0, 5.0])), min_size=1, max_size=30)


@settings(max_examples=20, deadline=None)
@given(events=EVENTS, cuts=st.lists(st.integers(1, 29), max_size=4), algorithm=st.sampled_from(sorted(MODELS)))
def test_exact_over_any_batching_is_one_half_step(events, cuts, algorithm):
    """Users exact, items off: the last batch a user was in decides, so cuts do not matter; against float64."""
    live = live_model(MODELS[algorithm])
    items = by_id(live, "item")
    events = [event for event in events if event[1] in items]
    bounds = sorted({0, len(events), *(cut for cut in cuts if cut < len(events))})
    state, _ = stream(live, [events[a:b] for a, b in pairwise(bounds)], ("exact", "off"))
    users = by_id(live, "user")
    touched = {user for user, item, _ in events if STATE.get((user, item)) != state.get((user, item))}
    for user in touched:
        history = entries_of(state, "user", user)
        expected = oracle_solution(live, *oracle_row(live, "user", history)) if history else 0 * users[user]
        np.testing.assert_allclose(users[user], expected, rtol=1e-5, atol=1e-5)
    for name, row in by_id(live, "item").items():
        np.testing.assert_array_equal(row, items[name])


@pytest.mark.parametrize("algorithm", MODELS)
def test_any_order_of_events_gives_the_same_users(algorithm):
    """All pairs of the table as events, one order against another, one by one against all at once."""
    events = [(user, item, strength) for (user, item), strength in STATE.items()]
    shuffled = [events[i] for i in np.random.default_rng(3).permutation(len(events))]
    rows = []
    for batches in ([events], [shuffled[a : a + 37] for a in range(0, len(events), 37)]):
        live = live_model(MODELS[algorithm])
        clear(live, "user")
        state, _ = stream(live, batches, ("exact", "off"), state={})
        assert state == STATE
        rows.append(by_id(live, "user"))
    for name, row in rows[0].items():
        np.testing.assert_allclose(rows[1][name], row, rtol=1e-5, atol=1e-5)


def clear(live, side):
    n = live.size(side)
    live.replace(side, np.arange(n), np.zeros_like(live.source(side)), np.zeros(n, np.int64))


BATCHES = [
    [("u-1", "i-2", 4.0), ("fresh", "i-2", 2.0), ("fresh", "novel", 1.0), ("u-3", "novel", 3.0)],
    [("u-1", "i-2", None), ("u-4", "novel", 2.0), ("fresh", "i-5", 5.0), ("u-3", "novel", 1.0)],
    [("fresh", "novel", None), ("other", "late", 2.0), ("u-7", "late", 2.0), ("u-3", "i-0", 1.0)],
]


RULES = [("exact", "exact"), ("exact", "proximal"), ("proximal", "proximal"), ("adam", "sgd"), ("sgd", "momentum")]
TEMPERED = {"tempered": MODELS["ials"].model_copy(update={"item_norm_exponent": 0.6})}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("algorithm", [*MODELS, "tempered"])
def test_the_same_bits_whatever_was_before(algorithm, rules):
    """Row numbers, order of the input, and a restart from the stored rows between the batches change no bit."""
    model = (MODELS | TEMPERED)[algorithm]
    once = live_model(model)
    stream(once, BATCHES, rules)
    again = live_model(model, shuffle=9)
    state = STATE
    for number, batch in enumerate(BATCHES):
        state, _ = stream(again, [batch], rules, state, shuffle=number + 5)
        again = restarted(again, number)
    for side in SIDES:
        first, second = by_id(once, side), by_id(again, side)
        assert first.keys() == second.keys()
        for name, row in first.items():
            np.testing.assert_array_equal(second[name], row)
        np.testing.assert_array_equal(once.scaled_gramian(side), again.scaled_gramian(side))


def restarted(live, seed):
    """Return a model loaded from what the tables hold, rows in another order, optimizer states too."""
    parts = {name: {} for name in ("ids", "factors", "bias", "n_entries")}
    orders = {}
    for side in SIDES:
        rows = orders[side] = np.random.default_rng(seed).permutation(live.size(side))
        parts["ids"][side] = pa.array(live.ids(side, rows))
        parts["factors"][side], parts["bias"][side] = live.stored(side, rows)
        parts["n_entries"][side] = live.n_entries(side, rows)
    anew = type(live)(live.model, live.equation.mean, *parts.values())
    for side, rows in orders.items():
        if (state := live.state(side, rows)) is not None:
            anew.put_state(side, np.arange(len(rows)), state)
    return anew


@pytest.mark.parametrize("algorithm", MODELS)
def test_new_users_and_items_come_in_together(algorithm):
    """`fresh` and `novel` are new: items see the new users, and `fresh` and u-3 are solved again with the new item."""
    live = live_model(MODELS[algorithm])
    old_items = by_id(live, "item")
    state, (updated,) = stream(live, BATCHES[:1], ("exact", "exact"))
    assert live.ids("user", updated["user"].rows) == ["fresh", "u-1", "u-3"]
    assert live.ids("item", updated["item"].rows) == ["i-2", "novel"]
    for user in ("fresh", "u-3"):  # against the items as they are now
        expected = oracle_solution(live, *oracle_row(live, "user", entries_of(state, "user", user)))
        np.testing.assert_allclose(by_id(live, "user")[user], expected, rtol=1e-5, atol=1e-5)
    for side in SIDES:
        np.testing.assert_array_equal(updated[side].factors, live.source(side)[updated[side].rows])
        np.testing.assert_array_equal(
            updated[side].n_entries, [len(entries_of(state, side, n)) for n in live.ids(side, updated[side].rows)]
        )
    # u-1 met no new item: its row is the solution against the items as they were
    reference = live_model(MODELS[algorithm])
    reference.add("item", pa.array(["novel"]))
    expected = oracle_solution(reference, *oracle_row(reference, "user", entries_of(state, "user", "u-1")))
    np.testing.assert_allclose(by_id(live, "user")["u-1"], expected, rtol=1e-5, atol=1e-5)
    untouched = {name: row for name, row in by_id(live, "item").items() if name not in ("i-2", "novel")}
    for name, row in untouched.items():
        np.testing.assert_array_equal(row, old_items[name])
    assert np.abs(by_id(live, "item")["novel"]).max() > 0
    assert np.abs(by_id(live, "user")["fresh"]).max() > 0


@pytest.mark.parametrize("rule", ["exact", "proximal"])
@pytest.mark.parametrize("algorithm", MODELS)
def test_items_are_solved_against_the_new_users(algorithm, rule):
    live = live_model(MODELS[algorithm])
    state, (updated,) = stream(live, [[("a", "novel", 2.0), ("u-5", "novel", 3.0)]], ("exact", rule))
    before = live_model(MODELS[algorithm])
    before.add("item", pa.array(["novel"]))
    before.add("user", pa.array(["a"]))
    for user in ("a", "u-5"):
        row = before.rows("user", pa.array([user]))
        x = oracle_solution(before, *oracle_row(before, "user", entries_of(state, "user", user)))
        before.replace("user", row, x[None].astype(np.float32), np.ones(1, np.int64))
    expected = oracle_solution(before, *oracle_row(before, "item", entries_of(state, "item", "novel")))
    np.testing.assert_allclose(by_id(live, "item")["novel"], expected, rtol=1e-4, atol=1e-5)
    assert updated["item"].rules.tolist() == [rule]


@pytest.mark.parametrize("algorithm", MODELS)
def test_what_is_removed_is_as_if_it_had_never_been(algorithm):
    """Exact on both sides, a like and its un-like, against a user and an item that never met."""
    live = live_model(MODELS[algorithm])
    pair = next((f"u-{u}", "i-1") for u in range(N_USERS) if (f"u-{u}", "i-1") not in STATE)
    stream(live, [[(*pair, 5.0)], [(*pair, None)]], ("exact", "off"))
    other = live_model(MODELS[algorithm])
    third = next(item for (user, item) in STATE if user == pair[0])
    stream(other, [[(pair[0], third, STATE[pair[0], third] + 1)], [(pair[0], third, STATE[pair[0], third])]],
           ("exact", "off"))  # fmt: skip
    np.testing.assert_allclose(by_id(live, "user")[pair[0]], by_id(other, "user")[pair[0]], atol=1e-6)


@pytest.mark.parametrize("algorithm", MODELS)
def test_proximal_takes_back_what_it_gave(algorithm):
    """A like moves an item, its un-like moves it back by about as much: to first order the same way."""
    live = live_model(MODELS[algorithm])
    users = [f"u-{u}" for u in range(N_USERS) if (f"u-{u}", "i-1") not in STATE][:3]
    start = by_id(live, "item")["i-1"]
    options = {"rho": 20.0}
    state, _ = stream(live, [[(user, "i-1", 5.0) for user in users]], ("off", "proximal"), **options)
    there = by_id(live, "item")["i-1"]
    stream(live, [[(user, "i-1", None) for user in users]], ("off", "proximal"), state, **options)
    back = by_id(live, "item")["i-1"]
    assert np.linalg.norm(back - start) < 0.2 * np.linalg.norm(there - start)


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_users_that_met_a_new_item_take_one_step_only(rule):
    """The second pass of a micro-batch goes from what the user was before it, state included."""
    live = live_model(MODELS["explicit_als"])
    stream(live, [[("u-1", "novel", 4.0), ("u-2", "i-1", 4.0)]], (rule, "exact"))
    again = live_model(MODELS["explicit_als"])
    again.add("item", pa.array(["novel"]))
    row = live.rows("item", pa.array(["novel"]))
    again.replace("item", row, live.source("item")[row], np.ones(1, np.int64))
    stream(again, [[("u-1", "novel", 4.0)]], (rule, "off"))
    np.testing.assert_allclose(by_id(live, "user")["u-1"], by_id(again, "user")["u-1"], atol=1e-6)
    if rule != "sgd":
        rows = live.rows("user", pa.array(["u-1"]))
        np.testing.assert_allclose(live.state("user", rows), again.state("user", rows), atol=1e-6)


def test_a_side_that_is_off_gets_no_rows():
    live = live_model(MODELS["implicit_als"])
    _, results = stream(live, BATCHES, ("exact", "off"))
    assert live.size("item") == len(set(TABLE["item_id"].to_pylist()))
    assert [sorted(result) for result in results] == [["user"]] * 3
    live = live_model(MODELS["implicit_als"])
    users = by_id(live, "user")
    stream(live, BATCHES, ("off", "proximal"))
    after = by_id(live, "user")
    assert after.keys() == users.keys()
    for name, row in users.items():
        np.testing.assert_array_equal(after[name], row)


@pytest.mark.parametrize("rules", [("exact", "exact"), ("adagrad", "adagrad")])
def test_an_error_leaves_the_rows_as_they_were(rules):
    live = live_model(MODELS["implicit_als"])
    before = {side: by_id(live, side) for side in SIDES}
    grams = {side: live.scaled_gramian(side) for side in SIDES}
    changes = changes_of([("u-1", "i-2", None, 3.0), ("fresh", "i-2", None, 3.0)])
    history = table_of({("u-1", "i-2"): 3.0, ("fresh", "i-2"): 3.0})
    bad = table_of({("u-1", "i-2"): -3.0})
    if rules[0] != "exact":
        changes = changes_of([("u-1", "i-2", None, 3.0), ("fresh", "i-2", None, -3.0)])
    with pytest.raises(InputError, match="strength of -3"):
        solve_batch(live, changes, {"user": history, "item": bad}, Stream(user_rule=rules[0], item_rule=rules[1]))
    for side in SIDES:
        after = by_id(live, side)
        for name, row in before[side].items():
            np.testing.assert_array_equal(after[name], row)
        np.testing.assert_array_equal(live.scaled_gramian(side), grams[side])


@pytest.mark.parametrize("algorithm", MODELS)
def test_heavy_rows_need_no_history_and_threads_change_no_bit(algorithm):
    """Histories of rows beyond the threshold are left out; they go by `proximal`, all others by `exact`."""
    settings = Stream(user_rule="exact", item_rule="exact", exact_max_entries=12)
    changed = [("u-1", "i-2", STATE.get(("u-1", "i-2")), 5.0), ("u-9", "i-19", STATE.get(("u-9", "i-19")), 4.0)]
    state = STATE | {change[:2]: change[3] for change in changed}
    results = []
    for threads in (1, 3):
        live = live_model(MODELS[algorithm])
        rows = {side: np.arange(live.size(side)) for side in SIDES}
        light = {
            side: {name for name, n in zip(live.ids(side, rows[side]), live.n_entries(side, rows[side]), strict=True)
                   if n <= 12}
            for side in SIDES
        }  # fmt: skip
        histories = {
            side: table_of({pair: strength for pair, strength in state.items() if pair[place] in light[side]})
            for place, side in enumerate(SIDES)
        }
        updated = solve_batch(live, changes_of(changed), histories, settings, threads)
        for side in SIDES:
            expected = ["exact" if name in light[side] else "proximal" for name in live.ids(side, updated[side].rows)]
            assert updated[side].rules.tolist() == expected
            counts = [len(entries_of(state, side, name)) for name in live.ids(side, updated[side].rows)]
            assert updated[side].n_entries.tolist() == counts
        assert {"exact", "proximal"} <= {rule for side in SIDES for rule in updated[side].rules}
        results.append(updated)
    for side in SIDES:
        np.testing.assert_array_equal(results[0][side].factors, results[1][side].factors)


@pytest.mark.parametrize("rules", [("proximal", "proximal"), ("sgd", "adam")])
def test_a_pair_whose_strength_stayed_pulls_at_nothing(rules):
    live = live_model(MODELS["explicit_als"])
    before = {side: by_id(live, side) for side in SIDES}
    (user, item), strength = next(iter(STATE.items()))
    updated = solve_batch(
        live, changes_of([(user, item, strength, strength)]), {}, Stream(user_rule=rules[0], item_rule=rules[1])
    )
    for side, name in zip(SIDES, (user, item), strict=True):
        np.testing.assert_array_equal(updated[side].factors[0], before[side][name])
        assert updated[side].n_entries.tolist() == [len(entries_of(STATE, side, name))]


def test_a_pair_given_twice_is_refused():
    live = live_model(MODELS["implicit_als"])
    twice = changes_of([("u-1", "i-2", None, 3.0), ("u-1", "i-2", 3.0, 4.0)])
    with pytest.raises(ShapeError, match="there twice"):
        solve_batch(live, twice, {}, Stream(user_rule="proximal"))


def test_safeguards_keep_the_newest_events_and_hold_new_users_with_too_many():
    random = np.random.default_rng(0)
    users, order = random.integers(0, 6, 200), random.permutation(200)
    keep = newest_events(users, order, 7)
    expected = [np.sum((users == user) & (order > place)) < 7 for user, place in zip(users, order, strict=True)]
    np.testing.assert_array_equal(keep, expected)
    assert newest_events(users, order, 0).all()
    is_new = users < 3
    held = in_quarantine(users, is_new, 30)
    np.testing.assert_array_equal(
        held, [new and np.sum(users == user) > 30 for user, new in zip(users, is_new, strict=True)]
    )
    assert not in_quarantine(users, is_new, 0).any()
    assert newest_events(users[:0], order[:0], 3).shape == in_quarantine(users[:0], is_new[:0], 3).shape == (0,)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MODELS)
def test_some_rows_are_solved_anew_and_nothing_changes(name, side):
    live = live_model(MODELS[name])
    before = {each: by_id(live, each) for each in SIDES}
    chosen = sorted(set(TABLE[f"{side}_id"].to_pylist()))[3:9]
    history = TABLE.filter(pa.compute.is_in(TABLE[f"{side}_id"], pa.array(chosen)))
    anew = solve_anew(live, side, history, Stream(user_rule="sgd", item_rule="proximal", max_change=0.01))
    assert live.ids(side, anew.rows) == chosen
    assert set(anew.rules) == {"exact"}
    for row, factors in zip(chosen, anew.factors, strict=True):
        entries = [(pair[side == "user"], strength) for pair, strength in STATE.items() if pair[side == "item"] == row]
        np.testing.assert_allclose(factors, oracle_solution(live, *oracle_row(live, side, entries)), atol=2e-4)
    for each in SIDES:
        assert by_id(live, each).keys() == before[each].keys()
        for one, factors in by_id(live, each).items():
            np.testing.assert_array_equal(factors, before[each][one])
