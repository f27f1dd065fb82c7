"""User and item ids as people type them: read as the table's type, and guessed where there is none of that name."""

from __future__ import annotations

import re

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from lakefactor.errors import InputError

LONGEST_SHOWN = 80
GUESS_ROWS = 5_000_000
"""Guesses compare the id with every other; a larger table gets none, since an error must not take minutes."""

_GUESSES = """
    SELECT id FROM ids WHERE jaro_winkler_similarity(lower(id), lower($id)) >= 0.85
    ORDER BY jaro_winkler_similarity(id, $id) DESC, id LIMIT 3
"""


def parse_id(given: str | int, kind: pa.DataType, where: str) -> str | int:
    """Return an id as the table's type has it.

    Parameters
    ----------
    given : str or int
    kind : pyarrow.DataType
        Type of the id column: string or int64.
    where : str
        Name of the column, for the error.

    Raises
    ------
    InputError
        The id is empty, not text, or not a 64-bit integer where the table holds those.

    Examples
    --------
    >>> parse_id("4294967296", pa.int64(), "user_id of user_factors"), parse_id("007", pa.string(), "user_id")
    (4294967296, '007')
    """
    text = str(given)
    if pa.types.is_integer(kind):
        if re.fullmatch(r"[+-]?[0-9]{1,19}", text) and -(2**63) <= int(text) < 2**63:
            return int(text)
        raise InputError(f"{where} is a 64-bit integer; found {quoted(text)}, give a whole number")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"the id {quoted(text)} is not UTF-8, as {where} is; check the terminal's encoding") from None
    if not text:
        raise InputError(f"the id is empty, and {where} holds no such; give an id")
    return text


def guesses(ids: ds.Dataset, column: str, wanted: str | int) -> list[str]:
    """Return up to three ids that look like `wanted`, the most similar first.

    Integers get none: the numbers beside one are not what was meant.
    """
    if isinstance(wanted, int) or ids.count_rows() > GUESS_ROWS:
        return []
    with duckdb.connect() as connection:
        connection.register("ids", ids.scanner(columns={"id": pc.field(column)}).to_reader())
        return [found for (found,) in connection.execute(_GUESSES, {"id": wanted}).fetchall()]


def quoted(given: str | int) -> str:
    r"""Return an id for an error text, quoted if it is text and cut if it is long.

    >>> quoted("O'Brien"), quoted(7), len(quoted("x" * 300))
    ('"O\'Brien"', '7', 83)
    """
    if isinstance(given, str) and len(given) > LONGEST_SHOWN:
        given = given[:LONGEST_SHOWN] + "…"
    return repr(given)
