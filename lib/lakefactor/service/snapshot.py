"""One state of the live model in memory: what a request takes once, so that no answer is of two states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefactor.client.loaded import NO_COLUMNS, Columns, LoadedModel
from lakefactor.config import Config
from lakefactor.factorization.catalogue import Catalogue
from lakefactor.factorization.coding import invert
from lakefactor.service.id_rows import IdRows
from lakefactor.service.item_index import ItemIndex
from lakefactor.service.ranking import Found, Ranking, Wanted
from lakefactor.service.users import Histories, Users

MEASURED_USERS, MEASURED_N = 50, 100
STALE = 0.05
"""Share of changed items at which an index is made anew."""


@dataclass(frozen=True)
class Snapshot:
    """A model version with everything that an answer needs.

    Attributes
    ----------
    model : LoadedModel
    batch_id : int
        Last micro-batch that is in it; -1: none.
    ranking : Ranking
        Of the model's items.
    users : Users
    histories : Histories
        With items as columns of the model's catalogue.
    versions : mapping of str to int
        Delta version of each table that it was read from, -1 where there was none.
    """

    model: LoadedModel
    batch_id: int
    ranking: Ranking
    users: Users
    histories: Histories
    versions: Mapping[str, int]

    @cached_property
    def items(self) -> IdRows:
        """Columns of item ids."""
        return IdRows(self.model.catalogue.ids)

    def popular(self, excluded: Columns, n: int, among: Columns | None = None) -> Found:
        """Return the items with the most interactions that the rules allow, of some or of all."""
        columns = self.model.most_popular(excluded, n, self.ranking.allowed, among)
        return Found(columns, self.model.catalogue.n_entries[columns].astype(np.float32))

    def warm(self) -> Snapshot:
        """Compute what the first request would wait for."""
        catalogue, rank = self.model.catalogue, self.model.config.model.rank
        self.popular(NO_COLUMNS, 1)
        self.model.fold_in(self.model.history(catalogue.ids[:1], np.ones(1)))
        one = Wanted(np.ones(rank, np.float32), 0.0, NO_COLUMNS, 1)
        self.ranking.best([one])
        self.ranking.similar([one])
        return self


def ranking_of(model: LoadedModel, users: Users, config: Config, index: ItemIndex | None = None) -> Ranking:
    """Return how a model's items are ranked: by an index where there are many, a new one unless one is given."""
    serve, rules = config.serve, config.recommend
    if not 0 < serve.approximate_above < len(model.catalogue.ids):
        return Ranking(model, rules)
    if index is not None and index.staleness <= STALE:
        return Ranking(model, rules, index)
    ranking = Ranking(model, rules, ItemIndex(model.catalogue, serve))
    _measure(ranking, users)
    return ranking


def _measure(ranking: Ranking, users: Users) -> None:
    """Let some users tell how much of the true list is in the one that the index leads to."""
    assert ranking.index is not None
    if not len(users.ids):
        return
    some = np.random.default_rng(0).choice(len(users.ids), min(MEASURED_USERS, len(users.ids)), replace=False)
    wanted = [Wanted(users.factors[row], float(users.bias[row]), NO_COLUMNS, MEASURED_N) for row in some]
    pairs = zip(ranking.best(wanted), ranking.best_of_all(wanted), strict=True)
    ranking.index.recall = float(np.mean([np.isin(true.columns, found.columns).mean() for found, true in pairs]))


def with_items(catalogue: Catalogue, rows: Catalogue) -> tuple[Catalogue, Columns, Columns]:
    """Return a catalogue in which some rows hold instead, or are new.

    Returns
    -------
    (catalogue, place, fresh)
        Old column c is column ``place[c]`` now; ``fresh`` are the columns of the rows.
    """
    found = catalogue.columns_of(rows.ids)
    is_new = found < 0
    merged, place = _merged(catalogue, rows, is_new)
    fresh = merged.columns_of(rows.ids)
    merged.factors[fresh], merged.bias[fresh], merged.n_entries[fresh] = rows.factors, rows.bias, rows.n_entries
    return merged, place, fresh


def _merged(catalogue: Catalogue, rows: Catalogue, is_new: NDArray[np.bool_]) -> tuple[Catalogue, Columns]:
    """Return a copy of a catalogue with more rows, ascending by id."""
    ids = pa.concat_arrays([catalogue.ids, rows.ids.cast(catalogue.ids.type).filter(pa.array(is_new))])
    order = pc.sort_indices(ids).to_numpy()
    merged = Catalogue(
        ids.take(pa.array(order)),
        np.concatenate([catalogue.factors, rows.factors[is_new]])[order],
        np.concatenate([catalogue.bias, rows.bias[is_new]])[order],
        np.concatenate([catalogue.n_entries, rows.n_entries[is_new]])[order],
        _with_unknown(catalogue.categories, int(is_new.sum()), order),
    )
    return merged, invert(order)[: len(catalogue.ids)]


def _with_unknown(categories: pa.Array | None, n: int, order: NDArray[np.int64]) -> pa.Array | None:
    """Return categories of the items and of n new ones, of which none is known, in a new order."""
    if categories is None:
        return None
    return pa.concat_arrays([categories, pa.nulls(n, categories.type)]).take(pa.array(order))
