"""One model version in memory, as its tables were at one moment, and what follows from it alone.

Users and items are rows and columns here; `client` knows their ids, and who is asked about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.linalg
from numpy.typing import NDArray

from lakefactor.config import Config, Recommend, recorded
from lakefactor.factorization.catalogue import Catalogue, matrix
from lakefactor.factorization.explanation import Explainer
from lakefactor.factorization.fold_in import FoldIn, user_fold_in
from lakefactor.factorization.lists import SimilarItems, TopItems, allowed_items
from lakefactor.factorization.strengths import Span
from lakefactor.query.lake import Lake
from lakefactor.query.live_factors import live_side
from lakefactor.types import Side

_COLUMNS = ("model_version", "config", "mean", "n_users", "made_from")

Columns = NDArray[np.int32]
NO_COLUMNS: Columns = np.empty(0, np.int32)


class User(NamedTuple):
    """Factors (float32, shape (rank,)) and bias of a user."""

    factors: NDArray[np.float32]
    bias: float


class History(NamedTuple):
    """Interactions of one user: columns of the catalogue, each once, ascending, and strengths (float32)."""

    columns: Columns
    strengths: NDArray[np.float32]

    def without(self, columns: Columns) -> History:
        """Return all but those with some items."""
        kept = ~np.isin(self.columns, columns)
        return History(self.columns[kept], self.strengths[kept])


class Parts(NamedTuple):
    """A score taken apart: ``item_id, strength, contribution``, largest first, and what no interaction adds."""

    rows: pa.Table
    base: float


@dataclass(frozen=True)
class LoadedModel:
    """A model version: its items, and what it was trained with.

    Attributes
    ----------
    model_version : str
    config : Config
        Of its training.
    mean : float
        Part of every predicted rating; 0 for implicit models.
    n_users : int
        Users that it was trained on.
    span : Span or None
        Of the events behind its training; None where nothing tells.
    catalogue : Catalogue
        Its items, with what a stream has taught it so far.
    batch_id : int
        Last micro-batch among that; -1: none.
    """

    model_version: str
    config: Config
    mean: float
    n_users: int
    span: Span | None
    catalogue: Catalogue
    batch_id: int

    def recommend(self, user: User, excluded: Columns, rules: Recommend, among: Columns | None = None) -> pa.Table:
        """Return ``position, item_id, score``: a user's best items under some rules, of some (ascending) or of all."""
        top, bias = self.top.under(rules), user.bias + self.mean
        if among is not None:
            scores, columns = top.best_among(user.factors, bias, among, excluded, rules.n)
        else:
            seen = np.array([0, len(excluded)]), excluded
            scores, columns = top.best(user.factors[None], np.array([bias]), seen)
        n = int((columns[0] >= 0).sum())
        return self.ranked(columns[0, :n], score=scores[0, :n])

    def popular(self, excluded: Columns, rules: Recommend, among: Columns | None = None) -> pa.Table:
        """Return ``position, item_id, score``: the items with the most interactions that the rules allow."""
        columns = self.most_popular(excluded, rules.n, allowed_items(self.catalogue, rules), among)
        return self.ranked(columns, score=self.catalogue.n_entries[columns].astype(np.float32))

    def among(self, allow: Columns, categories: Sequence[str]) -> Columns | None:
        """Return the columns, ascending, of some items and categories, of both where both are given; None: all."""
        if not categories:
            return np.unique(allow) if len(allow) else None
        inside = np.flatnonzero(self.catalogue.in_categories(categories)).astype(np.int32)
        return np.intersect1d(inside, allow) if len(allow) else inside

    def most_popular(
        self,
        excluded: Columns,
        n: int,
        allowed: NDArray[np.bool_] | None = None,
        among: Columns | None = None,
    ) -> Columns:
        """Return the n columns with the most interactions that are allowed, of some (ascending) or of all."""
        columns = self.by_popularity
        if among is not None:
            columns = among[np.argsort(-self.catalogue.n_entries[among], kind="stable")]
        if allowed is not None:
            columns = columns[allowed[columns]]
        columns = columns[: n + len(excluded)]
        return columns[~np.isin(columns, excluded)][:n]

    def unknown_categories(self, names: Sequence[str]) -> str | None:
        """Return the first of some categories that no item has; None: each has some."""
        return next((name for name in names if not self.catalogue.in_categories([name]).any()), None)

    def similar(self, column: int, n: int) -> pa.Table:
        """Return ``position, item_id, similarity``: the items most similar to that of a column."""
        return similar_to(self._similar, column, n, "item_id")

    def scores(self, user: User, columns: Columns) -> NDArray[np.float32]:
        """Return a user's scores of some columns."""
        return self.top.scores(user.factors, user.bias, columns)

    def surprising(self, user: User, history: History, n: int) -> pa.Table:
        """Return ``position, item_id, strength, score``: known items that a user would be expected to like least."""
        scores = self.scores(user, history.columns)
        order = np.argsort(scores, kind="stable")[:n]
        return self.ranked(history.columns[order], strength=history.strengths[order], score=scores[order])

    def representative(self, n: int) -> pa.Table:
        """Return ``position, item_id``: items that between them span what the model tells apart.

        Pivoted QR of the factors, each item as long as sqrt(n_entries) times its factors: every next item has the most
        that none of those before it has. It does not depend on how the factors are turned.
        """
        weighted = self.catalogue.factors.astype(np.float64) * np.sqrt(self.catalogue.n_entries)[:, None]
        pivots = scipy.linalg.qr(weighted.T, mode="r", pivoting=True)[1]
        return self.ranked(pivots[: min(n, *weighted.shape)].astype(np.int32))

    def fold_in(self, history: History) -> User:
        """Return what interactions make of a user."""
        row = self._fold_in(np.array([0, len(history.columns)], np.int64), *history)[0]
        rank = self.config.model.rank
        return User(row[:rank], float(row[rank]) if len(row) > rank else 0.0)

    def parts(self, history: History, column: int) -> Parts:
        """Return what each of some interactions adds to the score of the item of a column."""
        parts, base = self._explainer.parts(*history, np.array([column], np.int32))
        order = np.argsort(-parts[0], kind="stable")
        rows = pa.table(
            {
                "item_id": self.catalogue.ids.take(pa.array(history.columns[order])),
                "strength": history.strengths[order],
                "contribution": parts[0][order],
            }
        )
        return Parts(rows, float(base[0]))

    def history(self, items: pa.Array | pa.ChunkedArray, strengths: NDArray[np.floating[Any]]) -> History:
        """Return interactions with items by id, each once; items that the model does not have are left out."""
        columns = self.catalogue.columns_of(items.combine_chunks() if isinstance(items, pa.ChunkedArray) else items)
        known = np.flatnonzero(columns >= 0)
        order = known[np.argsort(columns[known])]
        return History(columns[order], strengths[order].astype(np.float32))

    def ranked(self, columns: Columns, **others: NDArray[Any]) -> pa.Table:
        """Return ``position, item_id`` of columns in their order, and other numbers of theirs."""
        position = np.arange(1, len(columns) + 1, dtype=np.int32)
        return pa.table({"position": position, "item_id": self.catalogue.ids.take(pa.array(columns)), **others})

    @cached_property
    def by_popularity(self) -> Columns:
        """All columns, those with the most interactions first."""
        return np.argsort(-self.catalogue.n_entries, kind="stable").astype(np.int32)

    @cached_property
    def top(self) -> TopItems:
        """Lists of its items, without rules."""
        return TopItems(self.catalogue, self.mean, Recommend())

    @cached_property
    def _similar(self) -> SimilarItems:
        return SimilarItems(self.catalogue)

    @cached_property
    def _fold_in(self) -> FoldIn:
        items = self.catalogue
        return user_fold_in(self.config.model, self.mean, items.factors, items.bias, items.n_entries, self.n_users)

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self.config.model, self.mean, self.catalogue, self.n_users)


def similar_to(similar: SimilarItems, row: int, n: int, key: str) -> pa.Table:
    """Return ``position``, ids as `key`, and ``similarity`` of the rows most similar to one."""
    (found,) = similar.of(np.array([row]), n)
    return pa.table(found).drop_columns("item_id").rename_columns({"similar_item_id": key})


def load_model(lake: Lake, version: str) -> LoadedModel:
    """Read a model version whose factors are there.

    Raises
    ------
    TableError
        A table is missing or cannot be read.
    """
    (row,) = lake.rows("models", _COLUMNS, {"model_version": version}).to_pylist()
    config = recorded(row["config"])
    items = live_side(lake, "item", version)
    span = None
    if row["made_from"]:
        span = Span.recorded(json.loads(row["made_from"])["span"])
        span = replace(span, types=span.types | {config.ingest.delete_event_type})  # it may come yet
    batch_id = pc.max(items["batch_id"]).as_py()
    catalogue = catalogue_of(items)
    if lake.exists("items"):
        catalogue = catalogue.with_categories(lake.rows("items", ("item_id", "category")))
    return LoadedModel(
        version,
        config,
        row["mean"],
        row["n_users"],
        span,
        catalogue,
        -1 if batch_id is None else batch_id,
    )


def catalogue_of(rows: pa.Table, side: Side = "item") -> Catalogue:
    """Return rows of a side, ascending by id, as a catalogue."""
    return Catalogue(
        rows[f"{side}_id"].combine_chunks(),
        matrix(rows["factors"].combine_chunks()),
        rows["bias"].to_numpy().astype(np.float32),
        rows["n_entries"].to_numpy(),
    )
