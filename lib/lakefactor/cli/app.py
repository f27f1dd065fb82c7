"""The commands. Each is a pipeline of the same name, except ``query`` and ``config``, which do without Spark."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from lakefactor import __version__
from lakefactor.cli import query
from lakefactor.cli.errors import NOT_CALLED_FOR, exit_statuses, reported
from lakefactor.cli.options import ConfigFile, Debug, DryRun, ModelVersion, Overrides, Result
from lakefactor.cli.output import print_json
from lakefactor.cli.report import report
from lakefactor.cli.running import run_job
from lakefactor.config import load, without_secrets
from lakefactor.config.toml import toml
from lakefactor.errors import InputError
from lakefactor.log import show

app = typer.Typer(
    name="lakefactor",
    help="Matrix factorization on the lakehouse: events in, Delta tables of factors and recommendations out.",
    epilog=f"Exit status: {exit_statuses()}.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(query.app, name="query")
app.command(epilog="Sections of the configuration in use: publish, tables.")(report)


LIVE, NEWEST = "live", "newest"
"""How `compare` calls versions that nobody has to look up."""


def _sections(*names: str) -> str:
    listed = ", ".join((*names, "tables", "spark"))
    return f"Sections of the configuration in use: {listed}. 'lakefactor config' explains every key."


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


@app.command(no_args_is_help=True, epilog=_sections("ingest", "interactions", "model"))
def ingest(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files or folders: CSV, JSON lines, Parquet or Delta.")
    ],
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Read raw events into `events`, then make `interactions` of all events.

    Rows that cannot be used go to `rejects`, with the reason. The same file again changes nothing.
    """
    run_job("ingest", config, overrides, debug, result, paths=paths)


@app.command(no_args_is_help=True, epilog=_sections("items"))
def items(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Files or folders: CSV, JSON lines, Parquet or Delta.")
    ],
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Read the category and the title of items into `items`, for rules of lists and for pages that people read.

    The same file again changes nothing; an item that is in `items` already gets what the new file says of it.
    """
    run_job("items", config, overrides, debug, result, paths=paths)


@app.command(epilog=_sections("interactions", "ingest", "model"))
def interactions(
    config: ConfigFile = None, overrides: Overrides = None, result: Result = None, debug: Debug = False
) -> None:
    """Make `interactions` again from `events`: one strength for each user and item.

    `ingest` does this too; alone it serves after a change of the section interactions.
    """
    run_job("interactions", config, overrides, debug, result)


@app.command(epilog=_sections("model", "train", "sgd"))
def train(
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Train anew, even where the same training has been done, or was cut off.")
    ] = False,
    tuned: Annotated[
        str | None,
        typer.Option(
            "--tuned",
            metavar="STUDY",
            help="With the values of the best trial of a tuning study; @PLACE: the one that a --result there names.",
        ),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Factorize `interactions` into `user_factors` and `item_factors` of a new model version.

    Readers do not see the version until `publish` makes it the live one. While configuration and interactions are the
    same, a training that was done is found and not done again, and one that was cut off goes on from its last snapshot.
    """
    run_job("train", config, overrides, debug, result, fresh=fresh, tuned=tuned)


@app.command(epilog=_sections("tune", "model", "train", "sgd", "evaluate"))
def tune(config: ConfigFile = None, overrides: Overrides = None, result: Result = None, debug: Debug = False) -> None:
    """Search for better hyperparameters, trial by trial, into `trials`.

    The first trial is the configuration as it is. A study that was cut off goes on with the trials that are missing.
    Nothing is trained for readers: `train --tuned STUDY` does that with the best values.
    """
    run_job("tune", config, overrides, debug, result)


@app.command(epilog=_sections("evaluate"))
def evaluate(
    model_version: ModelVersion = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Measure a model version on held-out interactions, beside popularity, into `evaluations`.

    Without --model-version: the newest version.
    """
    run_job("evaluate", config, overrides, debug, result, model_version=model_version)


@app.command(epilog=_sections("evaluate"))
def compare(
    champion: Annotated[str, typer.Argument(metavar="[A]", help="Model version, or `live`.")] = LIVE,
    challenger: Annotated[str, typer.Argument(metavar="[B]", help="Model version, @PLACE, or `newest`.")] = NEWEST,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Compare two model versions, A and B, on the same users of the same split, over everyone and over segments.

    Both configurations are trained and measured on the interactions that B was trained on, unless that has been done.
    """
    versions = {
        "champion": None if champion == LIVE else champion,
        "challenger": None if challenger == NEWEST else challenger,
    }
    run_job("compare", config, overrides, debug, result, **versions)


@app.command(epilog=_sections("stream"))
def catchup(
    model_version: ModelVersion = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Teach a model version what has arrived since the interactions that it was trained on, before it is published.

    Without --model-version: the newest version. What it is not taught here, the stream teaches it once it is live.
    """
    run_job("catchup", config, overrides, debug, result, model_version=model_version)


@app.command(epilog=_sections("publish"))
def publish(
    model_version: ModelVersion = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the version that the live one replaced; no gate is asked.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Make a model version the live one, if it passes the quality gate.

    Without --model-version: the newest version. A refusal is recorded in `decisions` and ends with exit status 6.
    """
    run_job("publish", config, overrides, debug, result, model_version=model_version, rollback=rollback)


@app.command(epilog=_sections("publish"))
def gate(
    model_version: ModelVersion = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Say whether a model version may become the live one; nothing is published.

    Without --model-version: the newest version. A refusal is recorded in `decisions` and ends with exit status 6.
    `publish` asks the same gate.
    """
    run_job("gate", config, overrides, debug, result, model_version=model_version)


@app.command(epilog=_sections("quality"))
def quality(
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help=f"End with status {NOT_CALLED_FOR} where no retraining is called for."),
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Look at what the stream says of the live model: go back if it is worse than the one before, tell of drift.

    A rollback is recorded in `decisions`. Whether drift calls for a retraining is in the result.
    """
    found = run_job("quality", config, overrides, debug, result)
    if exit_code and not found["retrain"]:
        raise typer.Exit(NOT_CALLED_FOR)


@app.command(epilog=_sections("recommend"))
def recommend(
    model_version: ModelVersion = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only for users and items whose factors are newer than their list.")
    ] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Write each user's best items to `recommendations`, and each item's nearest to `similar_items`.

    Without --model-version: the live version.
    """
    run_job("recommend", config, overrides, debug, result, model_version=model_version, changed=changed)


@app.command(epilog=_sections("explain"))
def explain(
    model_version: ModelVersion = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Write why each recommendation is there to `explanations`: what a user's interactions add to its score.

    Without --model-version: the live version.
    """
    run_job("explain", config, overrides, debug, result, model_version=model_version)


@app.command(epilog=_sections("stream", "ingest", "recommend"))
def stream(
    available_now: Annotated[
        bool, typer.Option("--available-now", help="Process what is there, and end; for scheduled runs.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Tell how the stream is doing, without Spark.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Let the running stream end after its micro-batch.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --status: print one line of JSON.")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Keep the live model up to date with new events, micro-batch by micro-batch.

    It goes on until --stop, an interrupt or SIGTERM, and then where it ended. Killed at any moment, it can be started
    again: nothing is lost and nothing counted twice.
    """
    if not status and not stop:
        run_job("stream", config, overrides, debug, result, available_now=available_now)
        return
    with reported(debug):
        settings = load(config, overrides or ())
        if stop:
            from lakefactor.pipelines.stream import ask_to_stop

            ask_to_stop(settings)
            return
        from lakefactor.query import stream_status

        found = stream_status.status(settings)
        if as_json:
            print_json(found.model_dump(mode="json"))
        else:
            show(stream_status.render(found))


@app.command(epilog="Sections of the configuration in use: serve, tables. 'lakefactor config' explains every key.")
def serve(config: ConfigFile = None, overrides: Overrides = None, debug: Debug = False) -> None:
    """Answer over HTTP from the live model, and follow it: recommendations, similar items, scores, reasons, fold-in.

    It goes on until an interrupt or SIGTERM. docs/serving.md tells how to ask; /docs on the service too.
    """
    with reported(debug):
        settings = load(config, overrides or ())
        from lakefactor.service.server import serve as run

        run(settings)


class ExperimentAction(str, Enum):
    """What `experiment` does."""

    start, expose, analyse, stop = "start", "expose", "analyse", "stop"


@app.command(no_args_is_help=True, epilog=_sections("experiment"))
def experiment(
    action: Annotated[ExperimentAction, typer.Argument(help="What to do.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The A/B test.")],
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH...]", help="Exposures: CSV, JSON lines, Parquet or Delta."),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Run an A/B test of model versions: start it, take in who was exposed, analyse outcomes, stop it.

    `start` records the section experiment. `expose` reads user_id, variant, exposed_at. `analyse` compares the variants
    by the events after the exposure; given files, it takes them in before. Which variant a user sees: `lakefactor query
    variant`, or docs/experiments.md.
    """
    run_job("experiment", config, overrides, debug, result, action=action.value, name=name, paths=paths or [])


@app.command(epilog=_sections("maintain", "stream", "train"))
def maintain(
    dry_run: DryRun = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Compact small files; remove old model versions, leftovers, and the history of the tables that nobody needs.

    What the stream, a running training or a kept model version reads stays, however old it is.
    """
    run_job("maintain", config, overrides, debug, result, dry_run=dry_run)


@app.command(no_args_is_help=True, epilog=_sections("forget", "maintain", "stream", "ingest", "interactions"))
def forget(
    users: Annotated[
        list[str] | None, typer.Option("--user", metavar="ID", help="User to forget. May be repeated.")
    ] = None,
    users_file: Annotated[
        str | None, typer.Option("--users-file", metavar="FILE", help="File or URI with an id on each line.")
    ] = None,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    result: Result = None,
    debug: Debug = False,
) -> None:
    """Delete every row of some users, solve anew the items that depended on them, and keep the users out.

    What is left is the tables' history, which `maintain` removes when it is old enough; `erasures` tells how far it is.
    """
    run_job("forget", config, overrides, debug, result, users=users or (), users_file=users_file, dry_run=dry_run)


@app.command(epilog=_sections("synthetic", "and those of every step"))
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
