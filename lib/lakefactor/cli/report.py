"""``lakefactor report``: a page about one model version, without Spark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lakefactor.cli.errors import reported
from lakefactor.cli.options import ConfigFile, Debug, Overrides
from lakefactor.cli.output import print_json
from lakefactor.config import load
from lakefactor.errors import InputError
from lakefactor.log import say


def report(
    model_version: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="Model version, `live`, or `newest`.")
    ] = "live",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write it. Without it: report-VERSION.html, here."),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Write one HTML page about a model version: objective, metrics by segment, factors, neighbours, where it is from.

    The page needs no network and no other file. Nothing secret is in it; ids of well-known items are.
    """
    with reported(debug):
        settings = load(config, overrides or ())
        from lakefactor.pages.report import report as page

        version, text = page(settings, model_version)
        file = out or Path(f"report-{version}.html")
        try:
            file.write_text(text, "utf-8")
        except OSError as error:
            raise InputError(
                f"--out {file} cannot be written: {error.strerror}; name a file in a folder that is there"
            ) from None
        say(f"report of model version {version}: {file.absolute()}")
        print_json({"model_version": version, "path": str(file.absolute()), "bytes": len(text.encode())})
