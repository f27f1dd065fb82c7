"""What every request passes: the key, the rate, the size of its body, the log and the metrics."""

from __future__ import annotations

import time
import traceback
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lakefactor.config import Serve
from lakefactor.service.keeper import Keeper
from lakefactor.service.logs import log
from lakefactor.service.metrics import Metrics
from lakefactor.service.problems import of_error, problem
from lakefactor.service.security import Keys, Rates

OPEN = ("/health", "/ready")
"""Paths that probes ask without a key, however often."""


class Gate:
    """Lets requests in, and sees them out. Plain ASGI: a framework's middleware would cost more than an answer."""

    def __init__(self, app: ASGIApp, config: Serve, keeper: Keeper, metrics: Metrics) -> None:
        self._app, self._keeper, self._metrics = app, keeper, metrics
        self._keys, self._most = Keys(config.api_keys), config.max_body_bytes
        self._rates = Rates(config.requests_per_second, config.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if (refused := self._refused(scope)) is not None:
                await refused(scope, receive, sent)
            else:
                await self._app(scope, self._bounded(receive), sent)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            log("defect", "error", kind=type(error).__name__, file=where.filename, line=where.lineno)
            if not status:
                await of_error(error)(scope, receive, sent)
        finally:
            self._seen_out(scope, status, time.perf_counter() - start)

    def _refused(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to a request that is not let in."""
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN:
            caller = scope["client"][0] if scope.get("client") else ""
            if self._keys.needed:
                name = self._keys.caller(headers)
                if name is None:
                    return problem(
                        401, "no_key", "give your key in the header X-API-Key, or as the password of any user"
                    )
                caller = name
            if wait := self._rates.wait(caller):
                detail = "there were too many requests; serve.requests_per_second and serve.burst are the limits"
                return problem(429, "too_many_requests", detail, wait)
        length = headers.get(b"content-length", b"0")
        return self._too_long() if length.isdigit() and int(length) > self._most else None

    def _bounded(self, receive: Receive) -> Receive:
        """Return a body that ends with an error where it becomes too long, whatever length was announced."""
        total = 0

        async def bounded() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._most:
                raise HTTPException(413, self._long_body)
            return message

        return bounded

    @property
    def _long_body(self) -> str:
        return f"the body is longer than {self._most} bytes (serve.max_body_bytes)"

    def _too_long(self) -> Any:
        return problem(413, "body_too_long", self._long_body)

    def _seen_out(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if route != "none" else "any"
        self._metrics.requests.labels(method, route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        now = self._keeper.loaded
        log(
            "request",
            method=method,
            route=route,
            status=status,
            ms=round(seconds * 1000, 3),
            model_version=None if now is None else now.model.model_version,
        )
