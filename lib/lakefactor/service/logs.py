"""The service's log: one JSON object a line on stderr, and nothing of what callers ask or get."""

from __future__ import annotations

import logging
import sys
from datetime import datetime, timezone
from typing import Any, Literal

import orjson

NAME = "lakefactor.service"
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _AsJson(logging.Formatter):
    """Our own records as they are; of others the message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
        }
        line |= getattr(record, "fields", None) or {"event": "server", "message": record.getMessage()}
        return orjson.dumps(line, default=str).decode()


def log(event: str, level: Literal["info", "warning", "error"] = "info", **fields: Any) -> None:
    """Write one line."""
    logging.getLogger(NAME).log(_LEVELS[level], event, extra={"fields": {"event": event, **fields}})


def write_json() -> None:
    """Let our lines and those of the server go to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_AsJson())
    for name in (NAME, "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
