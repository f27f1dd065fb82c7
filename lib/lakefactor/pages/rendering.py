"""Templates and the stylesheet, as they ship in the package."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from lakefactor import __version__
from lakefactor.pages import numbers
from lakefactor.pages.charts import BOX


@cache
def environment() -> Environment:
    """Return the environment of all templates: every value is escaped, and a name that is not given is an error."""
    made = Environment(
        loader=PackageLoader("lakefactor.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = (numbers.number, numbers.signed, numbers.share, numbers.span, numbers.moment, numbers.words)
    made.filters |= {one.__name__: one for one in formats} | {"id": numbers.identifier}
    made.globals |= {"release": __version__, "box": BOX, "nothing": numbers.NOTHING}
    return made


@cache
def stylesheet() -> str:
    """Return the one stylesheet."""
    return files("lakefactor.pages").joinpath("style.css").read_text("utf-8")
