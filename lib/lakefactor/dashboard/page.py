"""What a view returns: a template with what it shows, or where to look instead."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lakefactor.config import Config


@dataclass(frozen=True)
class Page:
    """An answer.

    Attributes
    ----------
    template : str
    context : mapping
    status : int
        Of HTTP.
    see : (str, str), optional
        Side and id of the page to go to instead.
    """

    template: str
    context: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    see: tuple[Literal["user", "item"], str] | None = None

    @classmethod
    def problem(cls, status: int, title: str, said: str, place: str = "", *, todo: str = "") -> Page:
        """Return a page that says what was found, where, and what to do."""
        return cls("problem.html", {"title": title, "said": said, "place": place, "todo": todo, "code": status}, status)

    @classmethod
    def empty(cls, title: str, said: str, command: str, status: int = 200) -> Page:
        """Return a page for what is not there yet, with the command that makes it."""
        return cls("empty.html", {"title": title, "said": said, "command": command}, status)


def command(config: Config, stem: str) -> str:
    """Return a command line as a person would type it for these tables.

    >>> command(Config(), "train")
    'lakefactor train --config conf/local.toml'
    """
    root = config.tables.root
    place = "" if root == Config().tables.root else f" --set {shlex.quote('tables.root=' + root)}"
    return f"lakefactor {stem} --config conf/local.toml{place}"
