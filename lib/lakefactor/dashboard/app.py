"""The ASGI application: routes, security headers, and the pages for what goes wrong."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import MutableHeaders, QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lakefactor.config import Config
from lakefactor.dashboard import catalogue, experiments, ids, models, overview, stream
from lakefactor.dashboard.page import Page
from lakefactor.dashboard.store import Look, Store, titles
from lakefactor.errors import InputError, LakefactorError, TableError, UnknownIdError
from lakefactor.pages import environment, stylesheet

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_STYLE_TAG = hashlib.sha256(stylesheet().encode()).hexdigest()[:12]
_UNSEGMENTED = (".", "..")
"""Ids that no path can carry: browsers take them for steps between folders."""

_log = logging.getLogger(__name__)

View = Callable[[Look, Mapping[str, str], QueryParams], Page]


class _AnyText(Convertor[str]):
    """An id in a path, whatever it is made of: slashes and line feeds too."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


register_url_convertor("anytext", _AnyText())


def create_dashboard(config: Config) -> ASGIApp:
    """Return the dashboard as an ASGI application, to be served alone or mounted in another.

    Parameters
    ----------
    config : Config
        ``tables.root``; ``publish.metric``, ``stream.name``.

    Raises
    ------
    ConfigError
        ``tables.root`` is empty: the tables are in a catalog, which only Spark can ask.
    """
    store = Store(config)
    routes = [
        _page("/", overview.page, store),
        _page("/models", models.all_models, store),
        _page("/models/{version:anytext}", models.one_model, store),
        _page("/stream", stream.page, store),
        _page("/catalogue", catalogue.page, store),
        _page("/users", ids.find_user, store),
        _page("/users/{id:anytext}", ids.user, store),
        _page("/items", ids.find_item, store),
        _page("/items/{id:anytext}", ids.item, store),
        _page("/experiments", experiments.page, store),
        Route("/style.css", _style),
    ]
    app = Starlette(routes=routes, exception_handlers={404: _no_such_page, 405: _no_such_page})
    return _Secured(app)


@dataclass(frozen=True)
class Links:
    """Addresses of pages, below whatever the dashboard is mounted at."""

    root: str
    titles: Mapping[str | int, str] = field(default_factory=dict)
    style_tag: str = field(default=_STYLE_TAG)

    def __call__(self, path: str, **query: object) -> str:
        """Return the address of a page by its path."""
        return self.root + path + (f"?{urlencode(query)}" if query else "")

    def user(self, user: str | int) -> str:
        """Return the address of a user's page."""
        return self._of("/users", user)

    def item(self, item: str | int) -> str:
        """Return the address of an item's page."""
        return self._of("/items", item)

    def title(self, item: str | int) -> str:
        """Return what people call an item; empty where nobody has said."""
        return self.titles.get(item, "")

    def model(self, version: str) -> str:
        """Return the address of a model version's page."""
        return f"{self.root}/models/{quote(version, safe='')}"

    def _of(self, path: str, given: str | int) -> str:
        text = str(given)
        return self(path, id=text) if text in _UNSEGMENTED else f"{self.root}{path}/{quote(text, safe='')}"


def _page(path: str, view: View, store: Store) -> Route:
    def endpoint(request: Request) -> Response:  # not async: Starlette gives it a thread, for it reads files
        look = store.look()
        try:
            found = view(look, request.path_params, request.query_params)
        except Exception as error:
            found = _failed(error, store)
        links = Links(request.scope.get("root_path", "").rstrip("/"), _titles(look))
        if found.see is not None:
            side, given = found.see
            return RedirectResponse(links.user(given) if side == "user" else links.item(given), 303)
        return _html(found, links, request.url.path[len(links.root) :])

    return Route(path, endpoint, methods=["GET"])


def _titles(look: Look) -> Mapping[str | int, str]:
    """Return the titles of items; none where they cannot be read, since no page is about them."""
    try:
        if not look.exists("items"):
            return {}
        return look.hold("titles", ["items"], lambda: titles(look.lake))
    except TableError:
        return {}


def _html(page: Page, links: Links, path: str) -> HTMLResponse:
    context = {**page.context, "link": links, "section": "/" + path.strip("/").partition("/")[0]}
    text = environment().get_template(page.template).render(context)
    return HTMLResponse(text, page.status, {"Cache-Control": "private, no-cache"})


def _failed(error: Exception, store: Store) -> Page:
    """Return the page that says what went wrong."""
    place = store.config.tables.root
    match error:
        case UnknownIdError():
            return Page.problem(404, "Not found", str(error), place)
        case TableError():
            return Page.problem(503, "A table cannot be read", str(error), place)
        case InputError():
            return Page.problem(400, "That cannot be asked", str(error), place)
        case LakefactorError():
            return Page.problem(500, "That did not work", str(error), place)
    _log.exception("a page of the dashboard failed")
    said = f"{type(error).__name__}. The log of the server has the details; this is a defect of lakefactor."
    return Page.problem(500, "An unexpected error", said, place)


def _no_such_page(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    said = f"There is no page at {request.url.path}." if status == 404 else "Pages are only read: use GET."
    links = Links(request.scope.get("root_path", "").rstrip("/"))
    return _html(Page.problem(status, "No such page" if status == 404 else "Only reading", said), links, "")


def _style(request: Request) -> Response:
    return Response(stylesheet(), media_type="text/css", headers={"Cache-Control": "public, max-age=31536000"})


class _Secured:
    """Adds `HEADERS` to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
