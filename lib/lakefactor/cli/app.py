"""All commands in one place: those of other modules, and the ones that stand for themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lakefactor import __version__
from lakefactor.cli import living, making, query
from lakefactor.cli.errors import exit_statuses, reported
from lakefactor.cli.options import ConfigFile, Debug, Overrides, Result, sections
from lakefactor.cli.output import print_json
from lakefactor.cli.report import report
from lakefactor.cli.running import run_job
from lakefactor.config import load, without_secrets
from lakefactor.config.toml import toml
from lakefactor.errors import InputError

app = typer.Typer(
    name="lakefactor",
    help="Matrix factorization on the lakehouse: events in, Delta tables of factors and recommendations out.",
    epilog=f"Exit status: {exit_statuses()}.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(making.app)
app.add_typer(living.app)
app.command(epilog="Sections of the configuration in use: publish, tables.")(report)
app.add_typer(query.app, name="query")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"lakefactor {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and stop.")
    ] = False,
) -> None:
    """Take the options that stand before the command."""


@app.command(epilog=sections("synthetic", "and those of every step"))
def demo(
    events: Annotated[
        Path | None,
        typer.Option("--events", metavar="FILE", help="Your own events: user,item[,rating or strength][,timestamp]."),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Run every step, from events to recommendations, on synthetic events or on your own file."""
    with reported(debug):
        if events is not None and not events.exists():
            raise InputError(f"--events {events}: there is no such file; give a CSV, JSON lines or Parquet file")
    run_job("demo", config, overrides, debug, result, events=events)


@app.command("config")
def show_config(
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Print the configuration in effect as a TOML file in which a comment explains every key."""
    with reported(debug):
        settings = without_secrets(load(config, overrides or ()))
        if as_json:
            print_json(settings.model_dump(mode="json"))
        else:
            print(toml(settings, "Configuration in effect."), end="")


def main() -> None:
    """Run the command that the arguments of this process name."""
    main_for()


def main_for(*stem: str) -> None:
    """Run one command with the arguments of this process, and exit with its status.

    Parameters
    ----------
    *stem : str
        The command, as ``"train"``; none: the first argument names it.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # no locale makes an id an error
    app(args=[*stem, *sys.argv[1:]], prog_name="lakefactor")
