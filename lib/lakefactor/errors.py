"""The error tree. Every error that a user can cause is one of these; none of them shows a stack trace.

::

    LakefactorError                exit  retryable
    ├── ConfigError                   2     no      a key, type or range in the configuration
    ├── SetupError                    3     no      Java, Spark, Delta or the cluster is not as required
    ├── InputError                    4     no      the data cannot be used as it is
    │   ├── TableError                4     no      a table, column or version is missing or different
    │   ├── SnapshotError             4     no      a snapshot is damaged, foreign or incomplete
    │   └── UnknownIdError            4     no      an id that the tables do not hold
    ├── SolveError                    5     no      a row's system has no unique finite solution
    ├── GateRefusedError              6     no      publishing was refused by the quality gate (and recorded)
    ├── RankFailedError               7     yes     a rank of the training stage died, hung or lost its peers
    └── ShapeError                    1     no      arrays disagree: a defect in the calling code

The text of an error says what was found, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence


class LakefactorError(Exception):
    """Base of all errors that lakefactor raises on purpose."""

    exit_code = 1
    retryable = False


class ConfigError(LakefactorError):
    """A configuration key is unknown, of the wrong type, or out of range."""

    exit_code = 2


class SetupError(LakefactorError):
    """The machine, the Spark session or the cluster is not what a job needs."""

    exit_code = 3


class InputError(LakefactorError):
    """The data that a job was given cannot be used."""

    exit_code = 4


class TableError(InputError):
    """A table, a column of it, or a version of it is missing or not as its contract says."""


class SnapshotError(InputError):
    """A snapshot of a training is damaged, incomplete, or not of this training; nothing of it is used."""


class UnknownIdError(InputError):
    """An id that a person asked for is in no table."""


class SolveError(LakefactorError):
    """Some rows' normal equations are singular or not finite.

    Parameters
    ----------
    rows : sequence of int
        Local row numbers that failed.
    message : str
        What was found and what to do.
    """

    exit_code = 5

    def __init__(self, rows: Sequence[int], message: str) -> None:
        super().__init__(message)
        self.rows = list(rows)


class GateRefusedError(LakefactorError):
    """The quality gate refused a model version; the refusal is recorded in ``decisions``."""

    exit_code = 6


class RankFailedError(LakefactorError):
    """A rank of the training stage was lost; the attempt ended and may be repeated."""

    exit_code = 7
    retryable = True


class ShapeError(LakefactorError):
    """Lengths, dtypes or index ranges of arrays disagree."""
