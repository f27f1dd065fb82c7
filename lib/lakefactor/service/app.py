"""The application: everything put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send
from threadpoolctl import threadpool_limits

from lakefactor import __version__
from lakefactor.config import Config
from lakefactor.dashboard import create_dashboard
from lakefactor.service import security
from lakefactor.service.answering import Answering
from lakefactor.service.gate import Gate
from lakefactor.service.keeper import Keeper
from lakefactor.service.metrics import Metrics
from lakefactor.service.problems import handle_in
from lakefactor.service.routes import questions, state
from lakefactor.service.scans import Scans

_ABOUT = """\
The live model of lakefactor, from memory. Every answer names the `model_version` and micro-batch (`batch_id`) that it
is of, and its `basis`. Errors are `{"error": ..., "detail": ...}`. Where keys are needed, they go into `X-API-Key`.
"""


def create_app(config: Config) -> FastAPI:
    """Return the service as an ASGI application; it reads the tables from when it is started until it is stopped.

    Parameters
    ----------
    config : Config
        ``tables``, ``serve``, and the rules of lists: ``recommend``.

    Raises
    ------
    ConfigError
        Only Spark finds the tables, or ``serve`` would let in everybody.
    """
    security.check(config.serve)
    metrics, scans = Metrics(), Scans()
    keeper = Keeper(config, metrics)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        with threadpool_limits(config.serve.threads):
            scans.start()
            keeper.start()
            yield
            keeper.stop()
            scans.stop()

    app = FastAPI(
        title="lakefactor",
        version=__version__,
        description=_ABOUT,
        lifespan=running,
        separate_input_output_schemas=False,
    )
    app.state.keeper = keeper
    app.add_middleware(Gate, config=config.serve, keeper=keeper, metrics=metrics)
    app.include_router(questions(Answering(keeper, scans, config)))
    app.include_router(state(keeper, metrics))
    handle_in(app)
    if config.serve.dashboard:
        _answer_elsewhere(app, create_dashboard(config))
    return app


def _answer_elsewhere(app: FastAPI, pages: ASGIApp) -> None:
    """Let pages for people answer whatever is no path of the API; a mount would also take its wrong methods."""
    missing = app.router.default

    async def elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
        answer = missing if scope["type"] != "http" or scope["path"].startswith("/v1/") else pages
        await answer(scope, receive, send)

    app.router.default = elsewhere
