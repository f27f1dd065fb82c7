"""The report: everything about one model version as one HTML page that needs nothing else."""

from __future__ import annotations

from datetime import datetime, timezone

from lakefactor.config import Config
from lakefactor.pages.model import named_version, read_model_page
from lakefactor.pages.rendering import environment, stylesheet
from lakefactor.query.lake import Lake


def report(config: Config, model_version: str, now: datetime | None = None) -> tuple[str, str]:
    """Return the version that was meant, and its page.

    Parameters
    ----------
    config : Config
        ``tables.root`` and ``publish.metric``.
    model_version : str
        A version, ``live`` or ``newest``.
    now : datetime, optional
        With a time zone; None: the clock's.

    Raises
    ------
    UnknownIdError
        There is no such version.
    TableError
        A table is missing or cannot be read.
    """
    version = named_version(config.tables, model_version)
    context = {
        "model": read_model_page(Lake(config.tables), version),
        "metric": config.publish.metric,
        "style": stylesheet(),
        "made": now or datetime.now(timezone.utc),
        "place": config.tables.root,
    }
    return version, environment().get_template("report.html").render(context)
