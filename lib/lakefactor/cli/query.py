"""``lakefactor query``: answers from the Delta tables, without Spark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefactor.cli.errors import reported
from lakefactor.cli.options import ConfigFile, Debug, ModelVersion, Overrides
from lakefactor.cli.output import print_json
from lakefactor.config import Config, load
from lakefactor.log import say, show

if TYPE_CHECKING:
    import pyarrow as pa

    from lakefactor.query import Reader

Root = Annotated[
    str | None, typer.Option("--root", metavar="PATH", help="Folder or URI of the tables, instead of tables.root.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON: an array of rows.")]
User = Annotated[str, typer.Option("--user", metavar="ID", help="The user.")]
Item = Annotated[str, typer.Option("--item", metavar="ID", help="The item.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most this many rows. Without it: all.")]
Rows = list[dict[str, Any]]

app = typer.Typer(
    help="Read factors, recommendations and model versions from Delta, without Spark.", no_args_is_help=True
)


@app.command(no_args_is_help=True)
def recommendations(
    user: User,
    limit: Limit = None,
    model_version: ModelVersion = None,
    as_json: AsJson = False,
    root: Root = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Show a user's recommended items, best first. Without --model-version: of the live version."""
    with reported(debug):
        rows = _rows(_reader(config, overrides, root).recommendations(user, limit, model_version))
        note = "no recommendations: the model knows the user, but recommend left the user out or found nothing unseen"
        _print(rows, as_json, f"recommendations for user {user!r}", ("position", "item_id", "score"), note)


@app.command(no_args_is_help=True)
def similar(
    item: Item,
    limit: Limit = None,
    model_version: ModelVersion = None,
    as_json: AsJson = False,
    root: Root = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Show the items most similar to an item. Without --model-version: of the live version."""
    with reported(debug):
        rows = _rows(_reader(config, overrides, root).similar(item, limit, model_version))
        columns = ("position", "similar_item_id", "similarity")
        _print(
            rows, as_json, f"items similar to item {item!r}", columns, "no similar items: the model has no other item"
        )


@app.command(no_args_is_help=True)
def factors(
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="The user; or give --item.")] = None,
    item: Annotated[str | None, typer.Option("--item", metavar="ID", help="The item; or give --user.")] = None,
    model_version: ModelVersion = None,
    as_json: AsJson = False,
    root: Root = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Show the newest factors of a user or of an item. Without --model-version: of the live version."""
    with reported(debug):
        reader = _reader(config, overrides, root)
        rows = _rows(reader.factors(user=user, item=item, model_version=model_version))
        fields = rows if as_json else [{"column": name, "value": value} for name, value in rows[0].items()]
        _print(fields, as_json, f"factors of {'user' if user is not None else 'item'} {user or item!r}")


@app.command()
def models(
    as_json: AsJson = False,
    root: Root = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Show all model versions, newest first, which one is live, and the metric that the gate compares."""
    with reported(debug):
        settings = _settings(config, overrides, root)
        rows = _rows(_reader_of(settings).models())
        shown = rows if as_json else [_model_line(row, settings.publish.metric) for row in rows]
        _print(shown, as_json, "model versions", note="no model versions: 'lakefactor train' makes one")


@app.command(no_args_is_help=True)
def history(
    user: User,
    limit: Limit = None,
    as_json: AsJson = False,
    root: Root = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Show a user's interactions, newest first."""
    with reported(debug):
        rows = _rows(_reader(config, overrides, root).history(user, limit))
        columns = ("item_id", "strength", "n_events", "last_event_time")
        _print(rows, as_json, f"interactions of user {user!r}", columns)


@app.command(no_args_is_help=True)
def variant(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="The A/B test.")],
    user: User,
    as_json: AsJson = False,
    root: Root = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Show which variant of an A/B test a user sees, and the model version to read for it."""
    with reported(debug):
        rows = _rows(_reader(config, overrides, root).variant(experiment, user))
        _print(rows, as_json, f"experiment {experiment!r} for user {user!r}", ("variant", "running"))


@app.command(no_args_is_help=True)
def sql(
    query: Annotated[
        str, typer.Argument(metavar="SELECT", help="One SELECT statement over the tables, by their names.")
    ],
    as_json: AsJson = False,
    root: Root = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Show the answer of a SELECT in DuckDB's SQL. Nothing but the tables is read, and nothing is written.

    live_user_factors and live_item_factors are the live version's factors with the stream's updates; the tables
    user_factors, item_factors and factor_updates are as they stand in Delta.
    """
    with reported(debug):
        rows = _rows(_reader(config, overrides, root).sql(query))
        _print(rows, as_json, "answer", note="no rows")


def _settings(config: Path | None, overrides: Sequence[str] | None, root: str | None) -> Config:
    place = [] if root is None else [f"tables.root={json.dumps(root)}", "tables.catalog=", "tables.metastore="]
    return load(config, [*(overrides or ()), *place])


def _reader_of(settings: Config) -> Reader:
    from lakefactor.query import Reader  # brings pyarrow, deltalake and duckdb, which --help does not need

    return Reader(settings.tables)


def _reader(config: Path | None, overrides: Sequence[str] | None, root: str | None) -> Reader:
    return _reader_of(_settings(config, overrides, root))


def _rows(table: pa.Table) -> Rows:
    from lakefactor.query.render import plain_rows

    return plain_rows(table)


def _model_line(row: dict[str, Any], metric: str) -> dict[str, Any]:
    """Return what a person wants to know of a model version at first."""
    figures, popularity = row["metrics"] or {}, row["popularity"] or {}
    names = (
        "live",
        "model_version",
        "created_at",
        "algorithm",
        "rank",
        "n_users",
        "n_items",
        "n_interactions",
        "split",
    )
    return {name: row[name] for name in names} | {
        metric: figures.get(metric),
        f"popularity's {metric}": popularity.get(metric),
    }


def _print(rows: Rows, as_json: bool, title: str, columns: Sequence[str] = (), note: str = "") -> None:
    """Print rows as JSON, or as a table for people; a note on stderr says why there are none."""
    from lakefactor.query.render import text_table

    if not rows:
        say(note)
    if as_json:
        print_json(rows)
    elif rows:
        version = rows[0].get("model_version") if columns else None
        show(text_table(rows, f"{title}, model version {version}" if version else title, columns), stdout=True)
