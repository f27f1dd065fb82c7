from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lakefactor.cli import app

VERSION = "20261120-080000-aaaa"
USER = 'Zoë "日本" O\'Brien [red]'
MADE = datetime(2026, 11, 20, 8, tzinfo=timezone.utc)


@pytest.fixture
def lake(write: Callable[..., None]) -> None:
    write("live_model", [{"name": "default", "model_version": VERSION}])
    write("models", [{"model_version": VERSION, "created_at": MADE, "algorithm": "ials", "rank": 2}])
    write("user_factors", [{"model_version": VERSION, "user_id": USER, "factors": [0.1, -2.0], "updated_at": MADE}])
    write("user_factors", [{"model_version": VERSION, "user_id": "idle", "factors": [0.0, 0.0]}])
    write("item_factors", [{"model_version": VERSION, "item_id": "i1", "factors": [1.0, 1.0]}])
    write(
        "recommendations",
        [
            {
                "model_version": VERSION,
                "user_id": USER,
                "position": 1,
                "item_id": "i2",
                "score": 0.9,
                "created_at": MADE,
            },
            {"model_version": VERSION, "user_id": USER, "position": 2, "item_id": "\x1b[1m", "score": 0.1},
        ],
    )
    write(
        "evaluations",
        [
            {
                "model_version": VERSION,
                "fold": -1,
                "recommender": recommender,
                "metric": metric,
                "segment": "all",
                "k": k,
                "value": value,
            }
            for recommender, value in (("model", 0.5), ("popularity", 0.25))
            for metric, k in (("ndcg", 10), ("rmse", 0))
        ],
    )
    write("interactions", [{"user_id": USER, "item_id": "i1", "strength": 3.0, "n_events": 2}])


@pytest.fixture
def query(root: Path) -> Callable[..., Any]:
    """Run `lakefactor query` on the tables of this test."""
    return lambda *arguments: CliRunner().invoke(app, ["query", *arguments, "--root", str(root)])


def lines(text: str) -> list[list[str]]:
    """Return the cells of the rows that a rich table shows."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


@pytest.mark.usefixtures("lake")
def test_recommendations_as_json_are_the_rows(query: Callable[..., Any]) -> None:
    result = query("recommendations", "--user", USER, "--limit", "1", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    row = {"model_version": VERSION, "user_id": USER, "position": 1, "item_id": "i2", "score": 0.9}
    assert json.loads(result.stdout) == [row | {"created_at": "2026-11-20T08:00:00+00:00"}]
    assert result.stdout.isascii()
    assert result.stdout.count("\n") == 1


@pytest.mark.usefixtures("lake")
def test_recommendations_as_a_table(query: Callable[..., Any]) -> None:
    result = query("recommendations", "--user", USER)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].strip() == f"recommendations for user {USER!r}, model version {VERSION}"
    assert lines(result.stdout) == [["1", "i2", "0.9"], ["2", "\\x1b[1m", "0.1"]]


@pytest.mark.usefixtures("lake")
def test_no_recommendations_is_said(query: Callable[..., Any]) -> None:
    result = query("recommendations", "--user", "idle", "--json")
    assert (result.exit_code, result.stdout) == (0, "[]\n")
    assert "no recommendations: the model knows the user" in result.stderr


@pytest.mark.usefixtures("lake")
def test_factors_show_every_number(query: Callable[..., Any]) -> None:
    (row,) = json.loads(query("factors", "--user", USER, "--json").stdout)
    assert row["factors"] == [0.1, -2.0]
    assert ["factors", "[0.1, -2]"] in lines(query("factors", "--user", USER).stdout)
    assert json.loads(query("factors", "--item", "i1", "--json").stdout)[0]["factors"] == [1.0, 1.0]


@pytest.mark.usefixtures("lake")
def test_models_show_the_live_one_and_the_metric_of_the_gate(query: Callable[..., Any]) -> None:
    result = query("models", "--set", "publish.metric=rmse")
    row = ["●", VERSION, "2026-11-20T08:00:00+00:00", "ials", "2", "0", "0", "0", "x", "0.5", "0.25"]
    assert lines(result.stdout) == [row]
    (row,) = json.loads(query("models", "--json").stdout)
    assert row["live"] is True
    assert row["metrics"] == {"ndcg_at_10": 0.5, "rmse": 0.5}


@pytest.mark.usefixtures("lake")
def test_history_and_sql_answer_too(query: Callable[..., Any]) -> None:
    assert lines(query("history", "--user", USER).stdout) == [["i1", "3", "2", ""]]
    result = query("sql", "SELECT item_id, strength AS s FROM interactions", "--json")
    assert json.loads(result.stdout) == [{"item_id": "i1", "s": 3.0}]


@pytest.mark.usefixtures("lake")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recommendations", "--user", "' OR '1'='1"], "error: user \"' OR '1'='1\" is not in user_factors of model"),
        (["recommendations", "--user", "idel"], "did you mean 'idle'?"),
        (["similar", "--item", "i1"], "error: table similar_items does not exist at "),
        (["factors", "--user", ""], "error: the id is empty"),
        (["factors", "--user", "\udcff"], "error: the id '\\udcff' is not UTF-8"),
        (["factors"], "give exactly one"),
        (["factors", "--item", "i1", "--model-version", "x'; DROP TABLE models"], "is not in table models"),
        (["sql", "DELETE FROM models"], "error: a query is one SELECT statement; found DELETE"),
        (["sql", "SELECT * FROM read_text('/etc/hostname')"], "error: DuckDB refused the query: Permission Error"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(query: Callable[..., Any], arguments: list[str], message: str) -> None:
    result = query(*arguments)
    assert (result.exit_code, result.stdout) == (4, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_tables_in_a_catalog_are_refused_with_the_way_out() -> None:
    result = CliRunner().invoke(app, ["query", "models", "--set", "tables.root=", "--set", "tables.catalog=main.lake"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: tables.catalog is 'main.lake', and without Spark nobody knows")
    assert "--root" in result.stderr


@pytest.mark.usefixtures("lake")
def test_root_wins_over_a_catalog(query: Callable[..., Any]) -> None:
    result = query(
        "models",
        *("--set", "tables.root=", "--set", "tables.catalog=main.lake", "--set", "tables.metastore=thrift://one:9083"),
        "--json",
    )
    assert [row["model_version"] for row in json.loads(result.stdout)] == [VERSION]


@pytest.mark.usefixtures("lake")
@pytest.mark.parametrize("arguments", [["--help"], ["query", "recommendations", "--user", USER], ["query", "models"]])
def test_help_and_queries_need_neither_spark_nor_torch(arguments: list[str], root: Path) -> None:
    place = ["--root", str(root)] if arguments[0] == "query" else []
    code = (
        "import sys; from lakefactor.cli import app; app(standalone_mode=False); "
        "sys.exit(sorted({'pyspark', 'py4j', 'delta', 'torch', 'numba'} & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code, *arguments, *place]
    result = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert (result.returncode, result.stderr) == (0, "")
