"""Questions that applications ask: a user's recommendations, similar items, factors, model versions, history.

Every answer about a model resolves ``live_model`` first and then reads rows of that one version: Delta commits one
table at a time, and the factor tables hold several versions side by side.
"""

from __future__ import annotations

import difflib
from typing import Any

import pyarrow as pa

from lakefactor.config import Tables
from lakefactor.contracts.assignment import variant_of
from lakefactor.errors import InputError, TableError, UnknownIdError
from lakefactor.query.ids import guesses, parse_id, quoted
from lakefactor.query.lake import Lake
from lakefactor.query.live_factors import LIVE_VIEWS, live_rows, live_view
from lakefactor.query.sql import select
from lakefactor.types import Side

LIVE_NAME = "default"
MEAN_FOLD = -1
ALL_SEGMENT = "all"

_MODEL_COLUMNS = (
    "model_version",
    "created_at",
    "algorithm",
    "rank",
    "n_users",
    "n_items",
    "n_interactions",
    "objective",
    "train_seconds",
)
_EVALUATION_COLUMNS = ("model_version", "evaluation_id", "evaluated_at", "split", "recommender", "metric", "k", "value")
_METRICS = pa.map_(pa.string(), pa.float64())


class Reader:
    """Reads lakefactor's tables without Spark; every call sees the newest commit of each table.

    Parameters
    ----------
    config : lakefactor.config.Tables

    Raises
    ------
    ConfigError
        ``root`` is empty, and there is no ``metastore``.

    Notes
    -----
    Ids are given as the table has them, or as text. Every method raises ``TableError`` where a table is missing (naming
    the command that creates it), ``InputError`` where an id cannot be one of the table's type, and ``UnknownIdError``
    where the table has no such id or model version.
    """

    def __init__(self, config: Tables) -> None:
        self._lake = Lake(config)

    def recommendations(self, user: str | int, limit: int | None = None, model_version: str | None = None) -> pa.Table:
        """Return a user's recommended items, best first.

        Parameters
        ----------
        user : str or int
        limit : int or None
            At most this many; None: the whole list.
        model_version : str or None
            None: the live one.

        Returns
        -------
        pyarrow.Table
            ``model_version, user_id, position, item_id, score, created_at``. No rows: the model knows the user, but
            `recommend` left the user out or found nothing to recommend.
        """
        columns = ("model_version", "user_id", "position", "item_id", "score", "created_at")
        return self._list("recommendations", "user", user, columns, limit, model_version)

    def similar(self, item: str | int, limit: int | None = None, model_version: str | None = None) -> pa.Table:
        """Return the items most similar to an item, most similar first.

        Parameters
        ----------
        item : str or int
        limit : int or None
            At most this many; None: the whole list.
        model_version : str or None
            None: the live one.

        Returns
        -------
        pyarrow.Table
            ``model_version, item_id, position, similar_item_id, similarity, created_at``.
        """
        columns = ("model_version", "item_id", "position", "similar_item_id", "similarity", "created_at")
        return self._list("similar_items", "item", item, columns, limit, model_version)

    def factors(
        self, *, user: str | int | None = None, item: str | int | None = None, model_version: str | None = None
    ) -> pa.Table:
        """Return the factors of a user or of an item: one row.

        Parameters
        ----------
        user, item : str, int or None
            Exactly one of them.
        model_version : str or None
            None: the live one.

        Returns
        -------
        pyarrow.Table
            ``model_version, user_id|item_id, factors, bias, n_entries, updated_at, batch_id``, as the stream left it.
        """
        if user is not None and item is None:
            return self._factors("user", user, self.resolve(model_version))
        if item is not None and user is None:
            return self._factors("item", item, self.resolve(model_version))
        raise InputError("factors are of one user or of one item; give exactly one of the two")

    def variant(self, experiment: str, user: str | int) -> pa.Table:
        """Return which variant of an A/B test a user sees: one row.

        Any user has one, whether a model knows the user or not.

        Parameters
        ----------
        experiment : str
        user : str or int

        Returns
        -------
        pyarrow.Table
            ``experiment, user_id, variant, model_version, running``.
        """
        columns = ("variants", "shares", "ended_at")
        rows = self._lake.rows("experiments", columns, {"experiment": experiment}).to_pylist(maps_as_pydicts="strict")
        if not rows:
            raise UnknownIdError(f"table experiments holds no {experiment!r}; 'lakefactor experiment start' makes one")
        user_id = parse_id(user, self._lake.schema("exposures").field("user_id").type, "user_id of exposures")
        name = variant_of(user_id, experiment, rows[0]["shares"])
        return pa.table(
            {
                "experiment": [experiment],
                "user_id": [user_id],
                "variant": [name],
                "model_version": [rows[0]["variants"][name]],
                "running": [rows[0]["ended_at"] is None],
            }
        )

    def models(self) -> pa.Table:
        """Return all model versions, newest first, each with the means of its newest evaluation.

        Returns
        -------
        pyarrow.Table
            ``live, model_version, created_at, algorithm, rank, n_users, n_items, n_interactions, objective,
            train_seconds, split, metrics, popularity``; ``metrics`` and ``popularity`` map names such as
            ``ndcg_at_10`` to values, and are null, as ``split``, for a version without an evaluation.
        """
        models = self._lake.rows("models", _MODEL_COLUMNS)
        models = models.sort_by([("created_at", "descending"), ("model_version", "descending")])
        live, evaluations = self._live_version(), self._evaluations()
        versions = models["model_version"].to_pylist()
        found = [evaluations.get(version, {}) for version in versions]
        models = models.add_column(0, "live", pa.array([version == live for version in versions], pa.bool_()))
        models = models.append_column("split", pa.array([row.get("split") for row in found], pa.string()))
        for name, recommender in (("metrics", "model"), ("popularity", "popularity")):
            maps = [list(row[recommender].items()) if recommender in row else None for row in found]
            models = models.append_column(name, pa.array(maps, _METRICS))
        return models

    def history(self, user: str | int, limit: int | None = None) -> pa.Table:
        """Return a user's interactions, newest first, and where times are equal or missing the strongest first.

        Parameters
        ----------
        user : str or int
        limit : int or None
            At most this many; None: all.

        Returns
        -------
        pyarrow.Table
            ``user_id, item_id, strength, n_events, last_event_time``.
        """
        columns = ("user_id", "item_id", "strength", "n_events", "last_event_time")
        wanted = self._id("interactions", "user", user)
        rows = self._lake.rows("interactions", columns, {"user_id": wanted})
        if not rows.num_rows:
            raise self._unknown("interactions", "user", wanted)
        order = [("last_event_time", "descending"), ("strength", "descending"), ("item_id", "ascending")]
        return rows.sort_by(order).slice(0, _checked(limit))

    def sql(self, query: str) -> pa.Table:
        """Return the answer of one SELECT in DuckDB's SQL, over the tables by their names.

        ``live_user_factors`` and ``live_item_factors`` are the factors of the live version, as the stream left them.
        Nothing but the tables can be read, and nothing can be written.
        """
        views = [name for name in LIVE_VIEWS if name in query.lower()]
        return select(self._lake, query, {name: live_view(self._lake, name, self.resolve(None)) for name in views})

    def _list(
        self,
        table: str,
        side: Side,
        given: str | int,
        columns: tuple[str, ...],
        limit: int | None,
        model_version: str | None,
    ) -> pa.Table:
        """Return the rows of one id from a table that lists items by position."""
        limit = _checked(limit)
        version = self.resolve(model_version)
        wanted = self._id(table, side, given)
        rows = self._lake.rows(table, columns, {"model_version": version, f"{side}_id": wanted})
        if not rows.num_rows:
            self._factors(side, wanted, version)  # refuses an id that the model does not know
            if not self._lake.dataset(table, {"model_version": version}).head(1, columns=["position"]).num_rows:
                raise TableError(
                    f"table {table} has no rows of model version {version}; "
                    f"'lakefactor recommend --model-version {version}' makes them"
                )
        return rows.sort_by("position").slice(0, limit)

    def _factors(self, side: Side, given: str | int, version: str) -> pa.Table:
        table = f"{side}_factors"
        wanted = self._id(table, side, given)
        rows = live_rows(self._lake, side, wanted, version)
        if not rows.num_rows:
            raise self._unknown(table, side, wanted, version)
        return rows

    def _id(self, table: str, side: Side, given: str | int) -> str | int:
        column = f"{side}_id"
        schema = self._lake.schema(table)
        if column not in schema.names:
            raise TableError(f"table {table} at {self._lake.uri(table)} lacks the column {column}; migrate it")
        return parse_id(given, schema.field(column).type, f"{column} of table {table}")

    def _unknown(self, table: str, side: Side, wanted: str | int, version: str | None = None) -> UnknownIdError:
        where = None if version is None else {"model_version": version}
        close = guesses(self._lake.dataset(table, where), f"{side}_id", wanted)
        meant = f"; did you mean {' or '.join(map(quoted, close))}?" if close else ""
        if version is None:
            return UnknownIdError(f"{side} {quoted(wanted)} is not in {table}: no event of it is left{meant}")
        return UnknownIdError(
            f"{side} {quoted(wanted)} is not in {table} of model version {version}; "
            f"it may have had no interactions when the model was trained{meant}"
        )

    def resolve(self, model_version: str | None) -> str:
        """Return the version to read: the live one, or an existing one by name."""
        if model_version is None:
            live = self._live_version()
            if live is None:
                raise TableError(
                    f"no model is published: table live_model at {self._lake.uri('live_model')} is missing or empty; "
                    "'lakefactor publish' publishes one, --model-version reads another (or tables.root is wrong)"
                )
            return live
        models = self._lake.rows("models", ["model_version", "removed_at"])
        versions = models["model_version"].to_pylist()
        if model_version not in versions:
            close = difflib.get_close_matches(model_version, versions, n=1)
            advice = f"did you mean {quoted(close[0])}?" if close else "'lakefactor query models' lists what there is"
            raise UnknownIdError(f"model version {quoted(model_version)} is not in table models; {advice}")
        removed = models["removed_at"][versions.index(model_version)].as_py()
        if removed is not None:
            raise TableError(
                f"the factors and lists of model version {quoted(model_version)} were removed at "
                f"{removed:%Y-%m-%d %H:%M} by 'lakefactor maintain'; name a version that has some"
            )
        return model_version

    def _live_version(self) -> str | None:
        return live_version(self._lake)

    def _evaluations(self) -> dict[str, dict[str, Any]]:
        """Return ``{model_version: {"split": ..., "model": {metric: value}, "popularity": ...}}`` of the newest."""
        if not self._lake.exists("evaluations"):
            return {}
        means = self._lake.rows("evaluations", _EVALUATION_COLUMNS, {"fold": MEAN_FOLD, "segment": ALL_SEGMENT})
        newest: dict[str, dict[str, Any]] = {}
        for row in means.sort_by([("evaluated_at", "ascending"), ("evaluation_id", "ascending")]).to_pylist():
            known = newest.get(row["model_version"])
            if known is None or known["evaluation_id"] != row["evaluation_id"]:
                known = newest[row["model_version"]] = {"evaluation_id": row["evaluation_id"], "split": row["split"]}
            name = f"{row['metric']}_at_{row['k']}" if row["k"] else row["metric"]
            known.setdefault(row["recommender"], {})[name] = row["value"]
        return newest


def live_version(lake: Lake) -> str | None:
    """Return the model version that readers use now; None: none is published."""
    if not lake.exists("live_model"):
        return None
    rows = lake.rows("live_model", ["model_version"], {"name": LIVE_NAME})
    return rows["model_version"][0].as_py() if rows.num_rows else None


def _checked(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise InputError(f"the limit is {limit}; give 1 or more, or none for all")
    return limit
