"""Results: a summary for people on stderr, one JSON line for programs on stdout."""

from __future__ import annotations

import json
import math
from typing import Any

from lakefactor.log import show


def print_json(value: Any) -> None:
    r"""Print one line of JSON on stdout.

    It is ASCII, so any terminal and locale carries it, and strict: NaN and infinity become null.

    >>> print_json({"user": "Zoë", "auc": float("nan")})
    {"user": "Zo\u00eb", "auc": null}
    """
    print(json_text(value), flush=True)


def json_text(value: Any) -> str:
    """Return JSON as `print_json` prints it."""
    return json.dumps(_finite(value), allow_nan=False)


def print_summary(stem: str, result: dict[str, Any]) -> None:
    """Print a result record for people: its plain fields, then a table for each group of figures.

    Rows are left out: a pipeline that finds some shows them itself.
    """
    from lakefactor.query.render import text_table

    fields = {name: value for name, value in result.items() if not isinstance(value, dict) and not _is_table(value)}
    if fields:
        rows = [{"field": name.replace("_", " "), "value": value} for name, value in fields.items()]
        show(text_table(rows, stem, header=False))
    for name, value in result.items():
        if isinstance(value, dict) and value:
            grouped = isinstance(next(iter(value.values())), dict)
            show(text_table(_figures(value), f"{stem}: {name.replace('_', ' ')}", header=grouped))


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(row, dict) for row in value)


def _figures(groups: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per figure, with a column per group where there are groups.

    >>> _figures({"model": {"auc": 0.9}, "popularity": {"auc": 0.8}})
    [{'name': 'auc', 'model': 0.9, 'popularity': 0.8}]
    """
    if not all(isinstance(group, dict) for group in groups.values()):
        return [{"name": name, "value": value} for name, value in groups.items()]
    names = dict.fromkeys(name for group in groups.values() for name in group)
    return [{"name": name} | {key: group.get(name) for key, group in groups.items()} for name in names]


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case list() | tuple():
            return [_finite(item) for item in value]
    return value
