"""From errors to answers: one shape, a name for programs, a sentence for people."""

from __future__ import annotations

import math
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from lakefactor.errors import ConfigError, InputError, LakefactorError, SolveError, TableError, UnknownIdError
from lakefactor.service.keeper import NoModelError
from lakefactor.service.messages import Problem

RETRY_SECONDS = 5


class UnknownUserError(UnknownIdError):
    """The model does not know the user, and the policy is to say so."""


class TooMuchError(InputError):
    """More was asked for, or given, than the service takes."""


_KINDS: list[tuple[type[LakefactorError], int, str]] = [
    (UnknownUserError, 404, "unknown_user"),
    (UnknownIdError, 404, "unknown_item"),
    (TooMuchError, 422, "too_much"),
    (NoModelError, 503, "no_model"),
    (TableError, 503, "tables"),
    (InputError, 422, "invalid_request"),
    (ConfigError, 422, "not_of_this_model"),
    (SolveError, 422, "no_solution"),
]
_NAMES = {401: "no_key", 404: "not_found", 405: "method_not_allowed", 413: "body_too_long", 429: "too_many_requests"}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "A key is needed, and none or a wrong one was given."},
    404: {"model": Problem, "description": "The model does not know the user or an item."},
    413: {"model": Problem, "description": "The body is longer than `serve.max_body_bytes`."},
    422: {"model": Problem, "description": "The request is not as described, or asks for more than the service takes."},
    429: {"model": Problem, "description": "Too many requests of this key; `Retry-After` tells when to come back."},
    503: {"model": Problem, "description": "There is no model yet."},
}
"""What an operation may answer but for success, as the OpenAPI description has it."""


def problem(status: int, error: str, detail: str, retry_after: float | None = None) -> Response:
    """Return an error as an answer."""
    headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="lakefactor", charset="UTF-8"'
    body = orjson.dumps({"error": error, "detail": detail})
    return Response(body, status, headers, "application/json")


def of_error(error: Exception) -> Response:
    """Return what a caller gets for an error; what nobody foresaw is told without what was in it."""
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            return problem(status, name, str(error), RETRY_SECONDS if status == 503 else None)
    if isinstance(error, HTTPException):
        return problem(error.status_code, _NAMES.get(error.status_code, "invalid_request"), str(error.detail))
    if isinstance(error, RequestValidationError):
        return problem(422, "invalid_request", "; ".join(map(_line, error.errors()[:10])))
    return problem(500, "internal", "something went wrong here; the log of the service says where")


def handle_in(app: FastAPI) -> None:
    """Let an application answer errors so."""

    async def handle(request: Request, error: Exception) -> Response:
        return of_error(error)

    for kind in (LakefactorError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, handle)


def _line(found: dict[str, Any]) -> str:
    """Say where and what: ``body.n: Input should be greater than or equal to 1``."""
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
