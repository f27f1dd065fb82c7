"""The answers, each from one snapshot: the rules of `client`, with all users in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lakefactor.client.answers import Basis
from lakefactor.client.loaded import NO_COLUMNS, Columns, History, User
from lakefactor.config import Config
from lakefactor.errors import InputError, UnknownIdError
from lakefactor.query.ids import quoted
from lakefactor.service.id_rows import Id
from lakefactor.service.keeper import Keeper
from lakefactor.service.messages import (
    ExplainQuestion,
    FoldInQuestion,
    Interaction,
    RecommendQuestion,
    ScoreQuestion,
)
from lakefactor.service.problems import TooMuchError, UnknownUserError
from lakefactor.service.ranking import Found, Wanted
from lakefactor.service.scans import Scans
from lakefactor.service.snapshot import Snapshot
from lakefactor.service.users import NO_HISTORY

Answer = dict[str, Any]

SHORT_HISTORY = 256
"""Interactions up to which a fold-in takes less than a millisecond."""


class Answering:
    """Answers questions from the newest snapshot.

    Every method returns what is to be sent, and raises ``NoModelError`` where there is no model yet, ``UnknownIdError``
    for what the model does not know, and ``InputError`` for what cannot be answered.
    """

    def __init__(self, keeper: Keeper, scans: Scans, config: Config) -> None:
        self._keeper, self._scans, self._config, self._rules = keeper, scans, config.serve, config.recommend

    async def recommend(self, asked: RecommendQuestion) -> Answer:
        """Return the best items for a user, or for whoever has interacted with some items."""
        self._check(asked.n, asked.items, asked.allow, asked.deny, asked.without, asked.categories)
        now = self._keeper.snapshot
        allow, deny, without = (columns_of(now, items) for items in (asked.allow, asked.deny, asked.without))
        basis, user, history = self._who(now, asked.user, asked.items)
        if basis == "items" or asked.without:
            row: User | None = await _folded(now, history.without(without))
        else:
            row = now.users.get(user)
        exclude_seen = self._rules.exclude_seen if asked.exclude_seen is None else asked.exclude_seen
        excluded = np.union1d(history.columns, deny) if exclude_seen else np.unique(deny)
        if strange := now.model.unknown_categories(asked.categories):
            raise UnknownIdError(f"no item is of category {quoted(strange)}")
        among = now.model.among(allow, asked.categories)
        if row is None:
            self._refuse_if_unknown(asked.user)
            basis = "category" if asked.categories or self._rules.allow_categories else "popular"
            return _listed(now, basis, now.popular(excluded, asked.n, among), "score")
        wanted = Wanted(row.factors, row.bias, excluded.astype(np.int32), asked.n)
        if among is not None:
            found = now.ranking.best_among(wanted, among)
        else:
            found = await self._scans.best(now.ranking, wanted)
        return _listed(now, basis, found, "score")

    async def similar(self, item: Id, n: int) -> Answer:
        """Return the items most similar to an item."""
        self._check(n)
        now = self._keeper.snapshot
        own = columns_of(now, [item])
        found = await self._scans.similar(now.ranking, Wanted(now.model.catalogue.factors[own[0]], 0.0, own, n))
        return _listed(now, "item", found, "similarity")

    async def score(self, asked: ScoreQuestion) -> Answer:
        """Return scores of some items."""
        self._check(1, asked.items, asked.targets)
        now = self._keeper.snapshot
        columns = columns_of(now, asked.targets)
        basis, user, history = self._who(now, asked.user, asked.items)
        row = now.users.get(user) if basis == "user" else await _folded(now, history)
        if row is None:
            raise _unknown_user(asked.user)
        scores = now.ranking.scores(row.factors, row.bias, columns).tolist()
        items = [{"item_id": i, "score": s} for i, s in zip(now.items.at(columns), scores, strict=True)]
        return _of(now, basis) | {"items": items}

    async def explain(self, asked: ExplainQuestion) -> Answer:
        """Return what each interaction adds to the score of an item."""
        self._check(1, asked.items, asked.without)
        now = self._keeper.snapshot
        (column,), without = columns_of(now, [asked.target]), columns_of(now, asked.without)
        basis, user, history = self._who(now, asked.user, asked.items)
        row = None
        if basis == "user" and (row := now.users.get(user)) is None:
            raise _unknown_user(asked.user)
        rows, base = await asyncio.to_thread(now.model.parts, history.without(without), int(column))
        stored = None
        if row is not None:
            stored = float(now.ranking.scores(row.factors, row.bias, np.array([column]))[0])
        score = base + float(rows["contribution"].to_numpy().sum())
        told = {"score": score, "base": base, "stored_score": stored, "items": rows.to_pylist()}
        return _of(now, basis) | told

    async def fold_in(self, asked: FoldInQuestion) -> Answer:
        """Return the factors that somebody with some interactions would have."""
        self._check(1, asked.items)
        now = self._keeper.snapshot
        row = await _folded(now, _history(now, asked.items))
        return _of(now, "items") | {"factors": row.factors, "bias": row.bias}

    def _check(self, n: int, *lists: Sequence[Any]) -> None:
        """Refuse what is too much, before anything is made of it."""
        if n > self._config.max_n:
            raise TooMuchError(f"n is {n}; this service gives {self._config.max_n} at most (serve.max_n)")
        if (named := sum(map(len, lists))) > self._config.max_items:
            raise TooMuchError(
                f"the request names {named} items; this service takes {self._config.max_items} at most "
                "(serve.max_items): send the newest"
            )

    def _who(self, now: Snapshot, user: Id | None, items: Sequence[Interaction]) -> tuple[Basis, Id, History]:
        """Return what an answer goes by, the user's id as the model has it, and what the user has done."""
        if (user is None) == (not items):
            raise InputError("an answer is for a user, or for whoever interacted with some items; give one of the two")
        if user is None:
            return "items", "", _history(now, items)
        known = now.users.ids.parsed(user, "user")
        return "user", known, now.histories.of(known)

    def _refuse_if_unknown(self, user: Id | None) -> None:
        if self._config.unknown_user == "refuse":
            raise _unknown_user(user)


def columns_of(now: Snapshot, items: Iterable[Id]) -> Columns:
    """Return the columns of items; refuse those that the model does not know."""
    given = list(items)
    if not given:
        return NO_COLUMNS
    columns = now.items.rows([now.items.parsed(item, "item") for item in given])
    if (columns < 0).any():
        stranger = given[int(np.flatnonzero(columns < 0)[0])]
        raise UnknownIdError(f"item {quoted(stranger)} is not in model version {now.model.model_version}")
    return columns


def _history(now: Snapshot, items: Sequence[Interaction]) -> History:
    """Return the interactions that a caller names."""
    if now.model.config.feedback == "explicit" and any(one.strength is None for one in items):
        raise InputError("the model is of ratings; give each item with its rating, as its strength")
    columns = columns_of(now, [one.item for one in items])
    order = np.argsort(columns, kind="stable")
    if len(twice := np.flatnonzero(np.diff(columns[order]) == 0)):
        item = items[int(order[twice[0]])].item
        raise InputError(f"item {quoted(item)} is given twice; give each item once, with the strength of all of it")
    strengths = np.array([1.0 if one.strength is None else one.strength for one in items])
    with np.errstate(over="ignore"):
        strengths = strengths.astype(np.float32)
    if not np.isfinite(strengths).all():
        raise InputError("a strength is too large for a 32-bit number; give a smaller one")
    return History(columns[order], strengths[order]) if items else NO_HISTORY


async def _folded(now: Snapshot, history: History) -> User:
    """Return what interactions make of a user; short ones are solved sooner than a thread is woken."""
    if len(history.columns) <= SHORT_HISTORY:
        return now.model.fold_in(history)
    return await asyncio.to_thread(now.model.fold_in, history)


def _unknown_user(user: Id | None) -> UnknownUserError:
    return UnknownUserError(f"user {quoted(user or '')} is not known to the model; give items of the user instead")


def _of(now: Snapshot, basis: Basis) -> Answer:
    return {"model_version": now.model.model_version, "batch_id": now.batch_id, "basis": basis}


def _listed(now: Snapshot, basis: Basis, found: Found, score: str) -> Answer:
    ids, scores = now.items.at(found.columns), found.scores.tolist()
    rows: list[Mapping[str, Any]] = [
        {"position": place, "item_id": item, score: value}
        for place, (item, value) in enumerate(zip(ids, scores, strict=True), start=1)
    ]
    return _of(now, basis) | {"items": rows}
