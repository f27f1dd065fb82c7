"""Which variant of an A/B test a user sees: one formula, in Python and as the SQL of Spark and of DuckDB.

A user's place in [0, 1) is the number that the first 13 hexadecimal digits of SHA-256(salt ":" id) write, over 2^52;
variants take their shares of [0, 1) in the order of their names. Any language and any engine has what that needs, so an
application can assign without asking anybody.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Literal

from lakefactor.contracts.ddl import literal

DIGITS, SCALE = 13, 2.0**52


def place(user_id: str | int, salt: str) -> float:
    """Return a user's place in [0, 1).

    >>> place("ann", "s") == place("ann", "s") != place("ann", "t")
    True
    """
    digits = hashlib.sha256(f"{salt}:{user_id}".encode()).hexdigest()[:DIGITS]
    return int(digits, 16) / SCALE


def number_at(where: float, shares: Sequence[float]) -> int:
    """Return the number of the variant that has a place.

    >>> [number_at(where, (1, 2, 1)) for where in (0.0, 0.25, 0.74, 0.75)]
    [0, 1, 1, 2]
    """
    bounds = list(accumulate(shares))
    return min(bisect_right([bound / bounds[-1] for bound in bounds], where), len(bounds) - 1)


def variant_of(user_id: str | int, salt: str, shares: Mapping[str, float]) -> str:
    """Return the variant that a user sees, of those with shares.

    >>> variant_of("ann", "s", {"only": 1.0})
    'only'
    """
    names = sorted(shares)
    return names[number_at(place(user_id, salt), [shares[name] for name in names])]


def variant_sql(column: str, salt: str, shares: Mapping[str, float], dialect: Literal["spark", "duckdb"]) -> str:
    """Return `variant_of` as an SQL expression.

    Parameters
    ----------
    column : str
        The id column, STRING or BIGINT.
    salt : str
    shares : mapping
    dialect : {"spark", "duckdb"}
    """
    names = sorted(shares)
    bounds = list(accumulate(shares[name] for name in names))
    if dialect == "spark":
        text = f"sha2(concat({literal(salt + ':')}, cast({column} AS STRING)), 256)"
        number = f"cast(conv(substr({text}, 1, {DIGITS}), 16, 10) AS DOUBLE)"
    else:
        quoted = "'" + (salt + ":").replace("'", "''") + "'"
        text = f"sha256(concat({quoted}, cast({column} AS VARCHAR)))"
        number = f"cast(cast('0x' || substr({text}, 1, {DIGITS}) AS BIGINT) AS DOUBLE)"
    escaped = [literal(name) if dialect == "spark" else "'" + name.replace("'", "''") + "'" for name in names]
    cases = [
        f"WHEN {number} / cast('{SCALE!r}' AS DOUBLE) < cast('{bound / bounds[-1]!r}' AS DOUBLE) THEN {name}"
        for name, bound in zip(escaped[:-1], bounds[:-1], strict=True)
    ]
    return f"CASE {' '.join(cases)} ELSE {escaped[-1]} END" if cases else escaped[-1]
