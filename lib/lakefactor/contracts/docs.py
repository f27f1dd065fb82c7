"""Write docs/tables.md from the contracts: ``python -m lakefactor.contracts.docs`` in a checkout."""

from __future__ import annotations

from pathlib import Path

from lakefactor.contracts import Column, TableContract, load, names

HEAD = """\
# Tables

Generated from `schemas/*.yaml` by `python -m lakefactor.contracts.docs`; change those, not this page.

Every table is a Delta table, in a folder of `tables.root` or in `tables.catalog`. The type `id` is STRING or BIGINT, as
the user's own ids are. A column without "null" is NOT NULL, and what "range" says is a CHECK constraint: a write that
breaks it fails. Floating point numbers are always finite. A version in `model_version` is read only after `live_model`,
or the reader, has named it. Tables with a clustering need a writer that knows it (Spark); anything reads them.
"""


def page() -> str:
    """Return the text of docs/tables.md."""
    contracts = [load(name) for name in names()]
    index = "\n".join(f"- [{contract.name}](#{contract.name}): {contract.grain}" for contract in contracts)
    return "\n".join([HEAD, index, "", *(_section(contract) for contract in contracts)])


def _section(contract: TableContract) -> str:
    facts = [f"Key: {_code(contract.key)}."]
    facts += [f"Clustered by {_code(contract.cluster_by)}."] if contract.cluster_by else []
    facts += ["Has a change data feed."] if contract.change_data_feed else []
    facts += ["Has deletion vectors."] if contract.deletion_vectors else []
    facts += [f"Also checked: {_code(tuple(contract.checks.values()))}."] if contract.checks else []
    rows = [
        f"| `{column.name}` | {_type(column)} | {_range(column)} | {column.unit} | {column.meaning.replace('|', '/')} |"
        for column in contract.columns
    ]
    head = ["| column | type | range | unit | meaning |", "|---|---|---|---|---|"]
    return "\n".join([f"## {contract.name}", contract.grain, " ".join(facts), "", *head, *rows, ""])


def _type(column: Column) -> str:
    kind = "id" if column.type in ("user_id", "item_id") else column.type
    return f"{kind}, null" if column.nullable else kind


def _range(column: Column) -> str:
    parts = [_code(column.one_of)] if column.one_of else []
    if column.min is not None and column.max is not None:
        parts.append(f"{column.min} to {column.max}")
    elif column.min is not None:
        parts.append(f">= {column.min}")
    elif column.max is not None:
        parts.append(f"<= {column.max}")
    if column.min_length is not None:
        parts.append("not empty" if column.min_length == 1 else f"length >= {column.min_length}")
    return "; ".join(parts)


def _code(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    Path("docs/tables.md").write_text(page(), encoding="utf-8")
