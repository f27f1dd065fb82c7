"""The commands around a live model: lists and reasons, stream, service, watch, tests, upkeep, forgetting."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from lakefactor.cli.errors import NOT_CALLED_FOR, reported
from lakefactor.cli.options import ConfigFile, Debug, DryRun, ModelVersion, Overrides, Result, sections
from lakefactor.cli.output import print_json
from lakefactor.cli.running import run_job
from lakefactor.config import load
from lakefactor.log import show

app = typer.Typer()


@app.command(epilog=sections("quality"))
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


@app.command(epilog=sections("recommend"))
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


@app.command(epilog=sections("explain"))
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


@app.command(epilog=sections("stream", "ingest", "recommend"))
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


@app.command(no_args_is_help=True, epilog=sections("experiment"))
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


@app.command(epilog=sections("maintain", "stream", "train"))
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


@app.command(no_args_is_help=True, epilog=sections("forget", "maintain", "stream", "ingest", "interactions"))
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
