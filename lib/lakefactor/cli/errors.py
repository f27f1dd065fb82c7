"""From an exception to one clear line on stderr and an exit status."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from lakefactor.errors import InputError, LakefactorError, SetupError
from lakefactor.log import say

UNEXPECTED, NOT_CALLED_FOR, INTERRUPTED = 1, 8, 130

_HINTS = {
    "OutOfMemoryError": "memory ran out; raise spark.driver_memory (spark-submit: --driver-memory, --executor-memory)",
    "No space left on device": "a disk is full; free space, or point SPARK_LOCAL_DIRS at another disk",
    "DELTA_CONCURRENT": "another job changed the same table at the same time; run the command again",
    "AccessControlException": "access is denied; check the permissions of tables.root and of the input",
    "JAVA_GATEWAY_EXITED": "the JVM did not start; check JAVA_HOME and that spark.driver_memory fits the machine",
    "UnsupportedFileSystemException": "Spark lacks the file system of that URI; add its jar by --packages",
}


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Turn whatever ends a command too early into one line on stderr and ``typer.Exit`` with its status.

    Parameters
    ----------
    debug : bool
        Print the stack trace before the line.
    """
    try:
        yield
    except (typer.Exit, BrokenPipeError):  # a planned end; a reader that has seen enough
        raise
    except (KeyboardInterrupt, Exception) as error:
        if debug:
            traceback.print_exception(error)
        if _was_interrupted(error):
            say("interrupted; what was finished is kept, and the same command can be run again", "bold")
            raise typer.Exit(INTERRUPTED) from None
        known = explained(error)
        if known is not None:
            say(f"error: {known}", "bold red")
            raise typer.Exit(known.exit_code) from None
        again = "" if debug else "; rerun with --debug to see where"
        say(f"error: unexpected {type(error).__name__}: {_reason(error)}{again}", "bold red")
        raise typer.Exit(UNEXPECTED) from None


def _was_interrupted(error: BaseException | None) -> bool:
    """Tell whether an interrupt is the error, or was being handled when the error came: cleaning up may fail then."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def explained(error: BaseException) -> LakefactorError | None:
    """Return the error as one of lakefactor's own, or None where nobody foresaw it."""
    if isinstance(error, LakefactorError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return SetupError(
            f"the Python package {error.name} is not installed here; install lakefactor with its dependencies"
        )
    return _explained_by_spark(error) if "pyspark" in sys.modules else None


def _explained_by_spark(error: BaseException) -> LakefactorError | None:
    """Explain an exception of Spark: raised by lakefactor on an executor, by the user's input, or for a known cause."""
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import AnalysisException, PySparkException

    from lakefactor.spark.barrier import typed_error

    if not isinstance(error, PySparkException | Py4JJavaError):
        return None
    if own := typed_error(str(error)):
        return own
    if isinstance(error, AnalysisException):
        return InputError(
            f"Spark refused it: {_reason(error)}; check the input's columns, tables.root and tables.catalog"
        )
    text = str(error)
    hint = next((hint for sign, hint in _HINTS.items() if sign in text), None)
    return None if hint is None else LakefactorError(f"{hint} (Spark says: {_reason(error)})")


def _reason(error: BaseException) -> str:
    """Return the first line of an error that says something; of a Java exception, the innermost cause's."""
    java = getattr(error, "java_exception", None)
    if java is not None:
        while java.getCause() is not None:
            java = java.getCause()
        return next(iter(str(java.toString()).splitlines()), type(error).__name__)
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def exit_statuses() -> str:
    """Return what each exit status means, from the error tree.

    >>> exit_statuses().split("; ")[:3]
    ['0 done', '1 unexpected', '2 a configuration key is unknown, of the wrong type, or out of range']
    """
    kinds = {kind.exit_code: kind for kind in _tree(LakefactorError) if kind.exit_code != UNEXPECTED}
    meanings = {code: str(kind.__doc__).splitlines()[0].rstrip(".").replace("``", "") for code, kind in kinds.items()}
    known = [f"{code} {meanings[code][0].lower()}{meanings[code][1:]}" for code in sorted(meanings)]
    known += [f"{NOT_CALLED_FOR} what --exit-code asks for is not called for", f"{INTERRUPTED} interrupted"]
    return "; ".join(["0 done", f"{UNEXPECTED} unexpected", *known])


def _tree(kind: type[LakefactorError]) -> list[type[LakefactorError]]:
    """Return a class and its subclasses, those nearest to the root last."""
    return [found for child in kind.__subclasses__() for found in _tree(child)] + [kind]
