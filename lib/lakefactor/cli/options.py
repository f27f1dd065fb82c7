"""Options that several commands share, with their help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="TOML configuration, such as conf/local.toml. Without one: the defaults."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the configuration. May be repeated."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")]
ModelVersion = Annotated[
    str | None,
    typer.Option(
        "--model-version", metavar="VERSION", help="Model version to use; @PLACE: the one that a --result there names."
    ),
]
Result = Annotated[
    str | None, typer.Option("--result", metavar="PLACE", help="Write the result there too, to a file or URI.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and change nothing.")]


def sections(*names: str) -> str:
    """Return the line of a help text that names the sections of the configuration in use."""
    listed = ", ".join((*names, "tables", "spark"))
    return f"Sections of the configuration in use: {listed}. 'lakefactor config' explains every key."
