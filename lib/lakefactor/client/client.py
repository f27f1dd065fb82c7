"""The client: one model version in memory, asked in Python."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, overload

import numpy as np
import pyarrow as pa

from lakefactor.client.answers import Answer, Basis, Explanation
from lakefactor.client.history import read_history
from lakefactor.client.loaded import Columns, History, User, catalogue_of, load_model, similar_to
from lakefactor.config import Recommend, Tables
from lakefactor.errors import InputError, UnknownIdError
from lakefactor.factorization.catalogue import Catalogue, matrix
from lakefactor.factorization.lists import SimilarItems
from lakefactor.query import Reader
from lakefactor.query.ids import parse_id, quoted
from lakefactor.query.lake import Lake
from lakefactor.query.live_factors import live_side
from lakefactor.types import Side

Id = str | int
Items = Mapping[Id, float] | Iterable[Id]
"""Items, or items with strengths (ratings, for an explicit model); an item without one counts as strength 1."""

NO_HISTORY = History(np.empty(0, np.int32), np.empty(0, np.float32))


class Client:
    """Answers about one model version: the live one, or one by name.

    Parameters
    ----------
    root : str or Tables
        Folder or URI of the tables, or the section ``tables`` of a configuration.
    model_version : str, optional
        None: the one that is live now.

    Raises
    ------
    ConfigError
        ``root`` is empty.
    TableError
        Nothing is published, or a table is missing or cannot be read.
    UnknownIdError
        There is no model version of this name.

    Notes
    -----
    The items of the version are read once and held in memory, 4 (rank + 3) bytes each beside their ids, and twice more
    in other orders once lists and neighbours are asked for; users are read when they are asked for. `refresh` reads
    again what has changed. Ids are given as the tables have them, or as text; those of no user or item of the model
    raise ``UnknownIdError``. A client may be used by several threads.
    """

    def __init__(self, root: str | Tables, model_version: str | None = None) -> None:
        tables = Tables(root=root) if isinstance(root, str) else root
        self._lake, self._reader, self._wanted = Lake(tables), Reader(tables), model_version
        self.refresh()

    def refresh(self) -> None:
        """Read the version that is live now, unless the client is for a version by name, as it is now."""
        self._model = load_model(self._lake, self._reader.resolve(self._wanted))

    @property
    def model_version(self) -> str:
        """The version that answers."""
        return self._model.model_version

    @property
    def batch_id(self) -> int:
        """Last micro-batch that it has learned from; -1: none."""
        return self._model.batch_id

    @property
    def items(self) -> Catalogue:
        """Its items, ascending by id, with factors, biases and numbers of interactions."""
        return self._model.catalogue

    def recommend(
        self,
        user: Id | None = None,
        n: int = 10,
        *,
        items: Items = (),
        without: Sequence[Id] = (),
        exclude_seen: bool | None = None,
        allow: Sequence[Id] = (),
        deny: Sequence[Id] = (),
        categories: Sequence[str] = (),
        rules: Recommend | None = None,
        unknown: Literal["refuse", "popular"] = "refuse",
    ) -> Answer:
        """Return the best items for a user, or for whoever has interacted with some items.

        Parameters
        ----------
        user : str or int, optional
            A user of the model.
        n : int
            At most this many.
        items : items, or mapping of items to strengths
            Instead of a user: an anonymous one's interactions.
        without : sequence of items
            As if the user had not interacted with these.
        exclude_seen : bool, optional
            Leave out what the user has interacted with; None: as the rules say, which by default do.
        allow, deny : sequence of items
            Recommend only these (empty: all), and none of those.
        categories : sequence of str
            Recommend only items of these categories (table `items`); empty: all.
        rules : Recommend, optional
            The section ``recommend`` of a configuration: caps, discount, diversity, and what else is allowed and
            denied. The arguments above narrow it.
        unknown : {"refuse", "popular"}
            What a user gets whom the model does not know: ``UnknownIdError``, or the most popular items, of the
            categories if some are given.

        Returns
        -------
        Answer
            ``position`` (1 is best)``, item_id, score``; ties are in order of item id. The score of a popular item is
            its number of interactions.
        """
        model, basis = self._model, _basis(user, items)
        rules = (rules or Recommend()).model_copy(update={"n": _count(n)})
        self._refuse_strange(*categories, *rules.allow_categories, *rules.deny_categories)
        among, denied = model.among(self._columns(allow), categories), self._columns(deny)
        if exclude_seen is None:
            exclude_seen = rules.exclude_seen
        history = self._history(user, items) if basis == "items" or exclude_seen or without else NO_HISTORY
        left = history.without(self._columns(without))
        if basis == "items" or without:
            row: User | None = model.fold_in(left)
        else:
            row = self._user(user, refuse=unknown == "refuse")
        excluded = np.union1d(history.columns, denied) if exclude_seen else np.unique(denied)
        if row is None:
            basis = "category" if categories or rules.allow_categories else "popular"
            return self._answer(model.popular(excluded, rules, among), basis)
        return self._answer(model.recommend(row, excluded, rules, among), basis)

    def similar_items(self, item: Id, n: int = 10) -> Answer:
        """Return the items most similar to an item, by the cosine of their factors.

        Returns
        -------
        Answer
            ``position, item_id, similarity`` in [-1, 1]; ties are in order of item id.
        """
        return self._answer(self._model.similar(int(self._columns([item])[0]), _count(n)), "item")

    def similar_users(self, user: Id, n: int = 10) -> Answer:
        """Return the users most similar to a user, by the cosine of their factors.

        Reads the factors of all users, every time.

        Returns
        -------
        Answer
            ``position, user_id, similarity`` in [-1, 1]; ties are in order of user id.
        """
        self._user(user)
        users = catalogue_of(live_side(self._lake, "user", self.model_version), "user")
        own = users.ids.index(self._parsed("user", user)).as_py()
        return self._answer(similar_to(SimilarItems(users), own, _count(n), "user_id"), "user")

    def score(self, user: Id, items: Sequence[Id]) -> Answer:
        """Return a user's scores of some items, in their order: predicted preference, or rating.

        Returns
        -------
        Answer
            ``item_id, score``.
        """
        row, columns = self._user(user), self._columns(items)
        rows = {"item_id": self._model.catalogue.ids.take(pa.array(columns)), "score": self._model.scores(row, columns)}
        return self._answer(pa.table(rows), "user")

    def explain(self, user: Id | None, item: Id, *, items: Items = (), without: Sequence[Id] = ()) -> Explanation:
        """Return what each of a user's interactions adds to the score of an item.

        Parameters
        ----------
        user : str, int or None
            None: whoever has interacted with ``items``.
        item : str or int
            Whose score; the user may have interacted with it.
        items : items, or mapping of items to strengths
        without : sequence of items
            As if the user had not interacted with these.

        Raises
        ------
        ConfigError
            The model's users are no solution of an equation (`Explainer`).
        """
        basis, (column,) = _basis(user, items), self._columns([item])
        row = None if user is None else self._user(user)
        history = self._history(user, items).without(self._columns(without))
        rows, base = self._model.parts(history, int(column))
        score = base + float(rows["contribution"].to_numpy().sum())
        stored = None if row is None else float(self._model.scores(row, np.array([column]))[0])
        return Explanation(rows, self.model_version, self._model.batch_id, basis, score, base, stored)

    def fold_in(self, items: Items) -> User:
        """Return the factors that a user with these interactions would have, and the bias.

        Parameters
        ----------
        items : items, or mapping of items to strengths

        Returns
        -------
        (factors, bias)
            float32 ndarray, shape (rank,), and a number, 0 for a model without biases.
        """
        return self._model.fold_in(self._history(None, items))

    def surprising(self, user: Id, n: int = 10) -> Answer:
        """Return the items that a user has interacted with and that the model would expect least.

        Returns
        -------
        Answer
            ``position, item_id, strength, score``, lowest score first; ties are in order of item id.
        """
        row, history = self._user(user), self._history(user, ())
        return self._answer(self._model.surprising(row, history, _count(n)), "user")

    def popular(self, n: int = 10) -> Answer:
        """Return the items with the most interactions.

        Returns
        -------
        Answer
            ``position, item_id, score`` (the number of interactions); ties are in order of item id.
        """
        return self._answer(self._model.popular(NO_HISTORY.columns, Recommend(n=_count(n))), "popular")

    def representative(self, n: int = 10) -> Answer:
        """Return items that between them span what the model tells apart, popular ones preferred.

        Returns
        -------
        Answer
            ``position, item_id``; at most as many as the model's rank.
        """
        return self._answer(self._model.representative(_count(n)), "catalogue")

    def _answer(self, rows: pa.Table, basis: Basis) -> Answer:
        return Answer(rows, self.model_version, self._model.batch_id, basis)

    @overload
    def _user(self, user: Id | None) -> User: ...
    @overload
    def _user(self, user: Id | None, refuse: bool) -> User | None: ...
    def _user(self, user: Id | None, refuse: bool = True) -> User | None:
        """Return a user as it is now; None: the model does not know it."""
        try:
            row = self._reader.factors(user=user, model_version=self.model_version)
        except UnknownIdError:
            if refuse:
                raise
            return None
        return User(matrix(row["factors"].combine_chunks())[0], row["bias"][0].as_py())

    def _columns(self, items: Iterable[Id]) -> Columns:
        """Return the columns of items; refuse those that the model does not know."""
        given = list(items)
        kind, where = self._model.catalogue.ids.type, "item_id of table item_factors"
        columns = self._model.catalogue.columns_of(pa.array([parse_id(item, kind, where) for item in given], kind))
        if (columns < 0).any():
            stranger = given[int(np.flatnonzero(columns < 0)[0])]
            self._reader.factors(item=stranger, model_version=self.model_version)  # says what is near
            raise UnknownIdError(f"item {quoted(stranger)} is newer than what the client has read; refresh it")
        return columns

    def _refuse_strange(self, *categories: str) -> None:
        """Refuse categories that no item has."""
        if strange := self._model.unknown_categories(categories):
            raise UnknownIdError(f"no item is of category {quoted(strange)}; 'lakefactor items' reads categories")

    def _history(self, user: Id | None, items: Items) -> History:
        """Return the interactions of a user, or those that a caller names."""
        if user is not None:
            return read_history(self._lake, self._model, self._parsed("user", user))
        if self._model.config.feedback == "explicit" and items and not isinstance(items, Mapping):
            raise InputError("the model is of ratings; give each item with its rating, as {item: rating}")
        strengths: dict[Id, float] = dict(items) if isinstance(items, Mapping) else dict.fromkeys(items, 1.0)
        for item, strength in strengths.items():
            if not np.isfinite(strength):
                raise InputError(f"the strength of item {quoted(item)} is {strength}; give a finite number")
        columns = self._columns(strengths)
        return self._model.history(self._model.catalogue.ids.take(pa.array(columns)), np.array([*strengths.values()]))

    def _parsed(self, side: Side, given: Id) -> Id:
        kind = self._lake.schema(f"{side}_factors").field(f"{side}_id").type
        return parse_id(given, kind, f"{side}_id of table {side}_factors")


def _basis(user: Id | None, items: Items) -> Basis:
    if user is not None and items:
        raise InputError("an answer is for a user, or for whoever interacted with some items; give one of the two")
    return "items" if user is None else "user"


def _count(n: int) -> int:
    if n < 1:
        raise InputError(f"n is {n}; give 1 or more")
    return n
