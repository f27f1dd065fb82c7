"""The command line: ``lakefactor <stem> ...``, and the same for ``spark-submit jobs/<stem>.py ...``.

Every command reads and checks its configuration before Spark is imported, calls one pipeline or one query, and ends
with its result on stdout (a pipeline's is one JSON line), or with one clear line on stderr and the exit status of its
error.
"""

from __future__ import annotations

from lakefactor.cli.app import app, main, main_for

__all__ = ["app", "main", "main_for"]
