"""What people see of a running command: text without surprises, on stderr, so that stdout holds the result alone.

On a terminal the text has colour and fits the width; elsewhere lines are plain and as long as they are. Knows no other
module of lakefactor.
"""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.text import Text

_UNLIMITED = 100_000
"""Width (characters) where no terminal sets one: what reads a pipe wants whole ids."""


def say(text: str, style: str = "") -> None:
    """Print text on stderr.

    Parameters
    ----------
    text : str
        May hold ids: neither markup nor control characters in it have a meaning.
    style : str
        A rich style such as ``bold red``, seen on terminals only.
    """
    Console(stderr=True, highlight=False).print(Text(printable(text), style), soft_wrap=True)


def show(renderable: RenderableType, *, stdout: bool = False) -> None:
    """Print a rich table or the like on stderr, or on stdout where it is the result."""
    console = Console(stderr=not stdout, highlight=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    console.print(renderable)


def printable(text: str) -> str:
    r"""Return `text` with control, surrogate and invisible characters escaped, line feeds kept.

    >>> printable("Zoë \x1b[31m red")
    'Zoë \\x1b[31m red'
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
