"""Update rules of one side: the laws of each rule, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lakefactor.config import Stream
from lakefactor.errors import ConfigError, InputError, ShapeError
from lakefactor.factorization.gradient_step import gradients
from lakefactor.factorization.row_entries import Entries, huber_weights
from lakefactor.factorization.update_rules import is_heavy, update
from lakefactor.kernels import reference
from lakefactor.testing.live_models import (
    MODELS,
    NAN,
    RANK,
    TABLE,
    by_id,
    dict_of,
    entries_of,
    live_model,
    oracle_row,
    oracle_solution,
)
from lakefactor.types import SIDES, other

STATE = dict_of(TABLE)
OPTIMIZERS = ("sgd", "momentum", "adagrad", "rmsprop", "adam")


def rule(name: str, **settings) -> Stream:
    return Stream(user_rule=name, item_rule=name, **settings)


def csr(live, side, rows, before=False, removed=()):
    """Return Entries from a list of [(id of the other side, strength[, strength before])] for each row."""
    flat = [entry for row in rows for entry in row]
    columns = np.array(flat, dtype=object).reshape(len(flat), -1)
    return Entries(
        np.cumsum([0] + [len(row) for row in rows]).astype(np.int64),
        live.numbers(other(side), list(columns[:, 0])).astype(np.int32) if flat else np.zeros(0, np.int32),
        columns[:, 1].astype(np.float32) if flat else np.zeros(0, np.float32),
        columns[:, 2].astype(np.float32) if flat and columns.shape[1] > 2 else None,
    )


def everything(live, side):
    """Return all rows of a side, and their histories."""
    names = live.ids(side, np.arange(live.size(side)))
    return np.arange(len(names)), csr(live, side, [entries_of(STATE, side, name) for name in names])


def nothing(n: int) -> Entries:
    return Entries(np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("algorithm", MODELS)
def test_exact_is_the_oracles_half_step(algorithm, side):
    live = live_model(MODELS[algorithm])
    rows, history = everything(live, side)
    updated = update(live, side, rows, history, nothing(len(rows)), rule("exact"))
    expected = [
        oracle_solution(live, *oracle_row(live, side, entries_of(STATE, side, name))) for name in live.ids(side, rows)
    ]
    np.testing.assert_allclose(updated.factors, expected, rtol=1e-5, atol=1e-5)
    assert set(updated.rules) == {"exact"}
    np.testing.assert_array_equal(updated.n_entries, history.lengths)


@pytest.mark.parametrize("rho", [1e-9, 1.0, 50.0])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("algorithm", MODELS)
def test_proximal_with_the_full_history_is_exact_for_any_rho(algorithm, side, rho):
    live = live_model(MODELS[algorithm])
    rows, history = everything(live, side)
    exact = update(live, side, rows, history, nothing(len(rows)), rule("exact"))
    before = np.where(np.arange(len(history.indices)) % 3 == 0, NAN, history.strengths - 0.5).astype(np.float32)
    recent = Entries(history.indptr, history.indices, history.strengths, before)
    live.replace(side, rows, live.source(side).copy(), recent.count_before())
    updated = update(live, side, rows, None, recent, rule("proximal", rho=rho))
    np.testing.assert_allclose(updated.factors, exact.factors, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(updated.n_entries, history.lengths)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("algorithm", MODELS)
def test_proximal_minimises_its_objective(algorithm, side):
    """One row, three recent entries: one new, one that changed, one that was removed; against the written formula."""
    live, rho = live_model(MODELS[algorithm]), 0.3
    name = live.ids(side, np.array([4]))[0]
    (first, held), (second, lost), *_ = entries_of(STATE, side, name)
    others = live.ids(other(side), np.arange(live.size(other(side))))
    fresh = next(one for one in others if one not in dict(entries_of(STATE, side, name)))
    rows = np.array([4])
    n_old = len(entries_of(STATE, side, name))
    recent = csr(live, side, [[(first, held + 1, held), (second, NAN, lost), (fresh, 2.0, NAN)]])
    updated = update(live, side, rows, None, recent, rule("proximal", rho=rho))

    x_old = live.source(side)[4].astype(np.float64)
    now, gone = [(first, held + 1), (fresh, 2.0)], [(second, lost)]
    base, _ = oracle_row(live, side, [], n=n_old)
    matrix, rhs = oracle_row(live, side, now, n=n_old)
    matrix_gone, rhs_gone = oracle_row(live, side, gone, n=n_old)
    pull = rhs - (matrix - base) @ x_old
    push = rhs_gone - (matrix_gone - base) @ x_old
    matrix = matrix + matrix_gone - base
    # what one of the recent entries adds to the diagonal on average; a bias counts for itself
    names = [(first, held + 1), (second, lost), (fresh, 2.0)]
    rows_of = live.numbers(other(side), [one for one, _ in names])
    weights = live.equation.weights(np.array([strength for _, strength in names], np.float32)).astype(np.float64)
    squares = np.square(live.source(other(side))[rows_of, :RANK].astype(np.float64)).sum(axis=1)
    near = rho * (n_old - 2) * np.mean(weights * squares) / RANK * np.eye(len(x_old))
    if live.equation.biased:
        near[-1, -1] = rho * (n_old - 2) * np.mean(weights)
    expected = oracle_solution(live, matrix + near, (matrix + near) @ x_old + pull - push)
    np.testing.assert_allclose(updated.factors[0], expected, rtol=2e-5, atol=1e-5)
    assert (updated.n_entries[0], updated.rules[0]) == (n_old, "proximal")


def test_rows_without_changed_entries_stay_as_they_are():
    live = live_model(MODELS["implicit_als"])
    for name in ("proximal", *OPTIMIZERS):
        updated = update(live, "user", np.arange(5), None, nothing(5), rule(name))
        np.testing.assert_array_equal(updated.factors, live.source("user")[:5])


@pytest.mark.parametrize("algorithm", MODELS)
@pytest.mark.parametrize("name", ["exact", "proximal"])
def test_a_row_that_lost_everything_is_zero(algorithm, name):
    live = live_model(MODELS[algorithm])
    user = live.ids("user", np.array([2]))[0]
    recent = csr(live, "user", [[(item, NAN, strength) for item, strength in entries_of(STATE, "user", user)]])
    updated = update(live, "user", np.array([2]), nothing(1), recent, rule(name))
    np.testing.assert_array_equal(updated.factors, np.zeros_like(updated.factors))
    assert updated.n_entries.tolist() == [0]


def test_a_heavy_row_uses_proximal_and_needs_no_history():
    live = live_model(MODELS["implicit_als"])
    rows = np.arange(live.size("user"))
    degrees = live.n_entries("user", rows)
    settings = rule("exact", exact_max_entries=int(np.median(degrees)))
    heavy = degrees > np.median(degrees)
    np.testing.assert_array_equal(is_heavy(live, "user", rows, settings), heavy)
    names = live.ids("user", rows)
    item = live.ids("item", np.array([0]))[0]
    history = csr(live, "user", [[] if heavy[i] else entries_of(STATE, "user", names[i]) for i in rows])
    recent = csr(live, "user", [[(item, 6.0, STATE.get((user, item), NAN))] for user in names])
    updated = update(live, "user", rows, history, recent, settings)
    np.testing.assert_array_equal(updated.rules, np.where(heavy, "proximal", "exact"))
    near = update(live, "user", rows, None, recent, rule("proximal"))
    np.testing.assert_allclose(updated.factors[heavy], near.factors[heavy], atol=1e-6)
    new = np.array([(user, item) not in STATE for user in names])
    np.testing.assert_array_equal(updated.n_entries[heavy], (degrees + new)[heavy])


@pytest.mark.parametrize("algorithm", MODELS)
@pytest.mark.parametrize("side", SIDES)
def test_the_gradient_is_the_objectives_slope(algorithm, side):
    """Of a row whose whole history is recent: central differences of the oracle's objective, which is quadratic."""
    live = live_model(MODELS[algorithm])
    rows, history = everything(live, side)
    got, _ = gradients(live, side, rows, history, history.lengths)
    for row, name in zip(rows[:6], live.ids(side, rows[:6]), strict=True):
        matrix, rhs = oracle_row(live, side, entries_of(STATE, side, name))
        x = live.source(side)[row].astype(np.float64)
        values = [(x + d) @ matrix @ (x + d) - 2 * (x + d) @ rhs for d in [*np.eye(len(x)), *-np.eye(len(x))]]
        slope = (np.array(values[: len(x)]) - values[len(x) :]) / 2
        np.testing.assert_allclose(got[row], slope, rtol=1e-4, atol=1e-4)


def test_shares_of_the_gradient_add_up_to_the_whole():
    """Half of the entries, then the other half: what the row shares with all entries is counted once."""
    live = live_model(MODELS["explicit_als"])
    rows, history = everything(live, "user")
    whole, _ = gradients(live, "user", rows, history, history.lengths)
    odd = np.arange(len(history.indices)) % 2 == 1
    parts = []
    for some in (odd, ~odd):
        indptr = np.concatenate([[0], np.cumsum(some)])[history.indptr]
        part = Entries(indptr, history.indices[some], history.strengths[some])
        parts.append(gradients(live, "user", rows, part, history.lengths)[0])
    np.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-4, atol=1e-4)


PEERS = {
    "sgd": lambda rows: torch.optim.SGD(rows, lr=0.05),
    "momentum": lambda rows: torch.optim.SGD(rows, lr=0.05, momentum=0.9),
    "adagrad": lambda rows: torch.optim.Adagrad(rows, lr=0.05),
    "rmsprop": lambda rows: torch.optim.RMSprop(rows, lr=0.05, alpha=0.99),
    "adam": lambda rows: torch.optim.Adam(rows, lr=0.05, betas=(0.9, 0.99)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torch_optims_on_autograds_gradient(name):
    """Five micro-batches of one user's ratings, state carried along; the loss is written out for autograd."""
    live = live_model(MODELS["explicit_als"])
    user, row = live.ids("user", np.array([3]))[0], np.array([3])
    history = entries_of(STATE, "user", user)
    parameter = torch.tensor(live.source("user")[3], requires_grad=True)
    peer = PEERS[name]([parameter])
    n = len(history)
    reg, last = (
        float(f("user", np.array([n]), live.size("item"))[0]) for f in (live.equation.reg, live.equation.bias_reg)
    )
    for item, strength in history[:5]:
        recent = csr(live, "user", [[(item, strength + 1, strength)]])
        y = torch.tensor(live.source("item")[recent.indices[0]])
        p = parameter[:RANK] @ y[:RANK] + parameter[RANK] + y[RANK] + live.equation.mean
        loss = (strength + 1 - p) ** 2
        loss = loss + (reg * parameter[:RANK].square().sum() + last * parameter[RANK] ** 2) / n
        peer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        peer.step()
        updated = update(live, "user", row, None, recent, rule(name))
        live.replace("user", row, updated.factors, updated.n_entries, updated.optimizer_state)
        np.testing.assert_allclose(live.source("user")[3], parameter.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert updated.rules.tolist() == [name]


def test_nmf_stays_above_zero_under_every_rule():
    live = live_model(MODELS["nmf"])
    names = live.ids("user", np.arange(live.size("user")))
    item = live.ids("item", np.array([0]))[0]
    lost = csr(live, "user", [[(item, NAN, 5.0)] for _ in names])
    for name in ("proximal", *OPTIMIZERS):
        updated = update(live, "user", np.arange(len(names)), None, lost, rule(name, rho=0.01))
        assert (updated.factors >= 0).all()
        assert (updated.factors != live.source("user")).any()


def oracle_huber(live, side, entries, delta):
    """Minimise the Huber objective of one row by reweighting until it stands still."""
    share = np.ones(len(entries))
    rows = live.numbers(other(side), [name for name, _ in entries])
    y = np.array([reference.design(live.source(other(side))[row], True)[0] for row in rows])
    bias = np.array([reference.design(live.source(other(side))[row], True)[1] for row in rows])
    target = np.array([strength for _, strength in entries]) - live.equation.mean - bias
    base = oracle_row(live, side, [], n=len(entries))[0]
    for _ in range(5):
        x = np.linalg.solve(base + y.T @ (share[:, None] * y), y.T @ (share * target))
        used, share = share, np.minimum(1, delta / np.abs(target - y @ x))
    return x, int((used < 1).sum())


@pytest.mark.parametrize("side", SIDES)
def test_huber_weighs_wild_ratings_less_and_counts_them(side):
    live = live_model(MODELS["explicit_als"])
    rows, history = everything(live, side)
    wild = Entries(history.indptr, history.indices, history.strengths.copy())
    wild.strengths[::7] += 40
    updated = update(live, side, rows, wild, nothing(len(rows)), rule("exact", huber=1.5))
    flat = list(zip(live.ids(other(side), wild.indices.astype(np.int64)), wild.strengths.tolist(), strict=True))
    expected = [oracle_huber(live, side, flat[a:b], 1.5) for a, b in zip(wild.indptr, wild.indptr[1:], strict=False)]
    np.testing.assert_allclose(updated.factors, [x for x, _ in expected], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(updated.huber, [n for _, n in expected])
    plain = update(live, side, rows, wild, nothing(len(rows)), rule("exact"))
    assert plain.huber.sum() == 0
    calm = update(live, side, rows, history, nothing(len(rows)), rule("exact"))
    moved = [np.linalg.norm(one.factors - calm.factors) for one in (updated, plain)]
    assert moved[0] < 0.3 * moved[1]


@pytest.mark.parametrize("name", ["proximal", "sgd", "adam"])
def test_huber_acts_on_recent_entries_of_every_rule(name):
    live = live_model(MODELS["explicit_als"])
    recent = csr(live, "user", [[(entry, 90.0)] for entry in live.ids("item", np.arange(4))])
    updated = update(live, "user", np.arange(4), None, recent, rule(name, huber=1.0, clip_norm=0.0))
    assert updated.huber.tolist() == [1, 1, 1, 1]
    plain = update(live, "user", np.arange(4), None, recent, rule(name, clip_norm=0.0))
    length = [np.linalg.norm(one.factors - live.source("user")[:4]) for one in (updated, plain)]
    assert length[0] <= length[1] * (1 + 1e-6)
    assert plain.huber.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("name", ["exact", "proximal", "sgd"])
def test_change_is_bounded_and_counted(name):
    live = live_model(MODELS["implicit_als"])
    rows, history = everything(live, "user")
    settings = rule(name, clip_norm=0.0)
    free = update(live, "user", rows, history, history, settings)
    bound = update(live, "user", rows, history, history, settings.model_copy(update={"max_change": 0.2}))
    old = live.source("user").astype(np.float64)
    length = np.linalg.norm(old, axis=1)
    moved = np.linalg.norm(free.factors - old, axis=1)
    expected = old + (free.factors - old) * np.minimum(1, 0.2 * length / moved)[:, None]
    np.testing.assert_allclose(bound.factors, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(bound.bounded, moved > 0.2 * length)
    assert bound.bounded.sum() > 0
    assert not free.bounded.any()


def test_huber_weights_are_those_of_least_absolute_errors_beyond_the_bound():
    np.testing.assert_allclose(huber_weights(np.float32([0, 1, -3, 1e9]), 1.5), [1, 1, 0.5, 1.5e-9], rtol=1e-6)
    np.testing.assert_array_equal(huber_weights(np.float32([0, 7]), 0.0), [1, 1])


def test_refusals():
    live = live_model(MODELS["implicit_als"])
    rows, history = everything(live, "user")
    with pytest.raises(ShapeError, match="user_rule is off"):
        update(live, "user", rows, history, history, rule("off"))
    with pytest.raises(ShapeError, match="user_rule is exact, without"):
        update(live, "user", rows, None, history, rule("exact"))
    with pytest.raises(ShapeError, match="for 2 user rows"):
        update(live, "user", rows[:2], history, history, rule("exact"))
    with pytest.raises(ConfigError, match=r"set stream\.huber to 0"):
        update(live, "user", rows, history, history, rule("exact", huber=1.0))
    negative = Entries(history.indptr, history.indices, -history.strengths)
    with pytest.raises(InputError, match="strength of -5"):
        update(live, "user", rows, negative, nothing(len(rows)), rule("exact"))


def test_updating_leaves_the_live_model_alone():
    live = live_model(MODELS["implicit_als"])
    rows, history = everything(live, "user")
    before = by_id(live, "user")
    for name in ("exact", "proximal", *OPTIMIZERS):
        update(live, "user", rows, history, history, rule(name))
    after = by_id(live, "user")
    for name, row in before.items():
        np.testing.assert_array_equal(after[name], row)
