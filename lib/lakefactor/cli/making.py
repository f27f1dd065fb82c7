"""The commands that make a model version and let it go live, from events on; each is a pipeline of the same name."""

from __future__ import annotations

from typing import Annotated

import typer

from lakefactor.cli.options import ConfigFile, Debug, ModelVersion, Overrides, Result, sections
from lakefactor.cli.running import run_job

app = typer.Typer()

LIVE, NEWEST = "live", "newest"
"""How `compare` calls versions that nobody has to look up."""


@app.command(no_args_is_help=True, epilog=sections("ingest", "interactions", "model"))
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


@app.command(no_args_is_help=True, epilog=sections("items"))
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


@app.command(epilog=sections("interactions", "ingest", "model"))
def interactions(
    config: ConfigFile = None, overrides: Overrides = None, result: Result = None, debug: Debug = False
) -> None:
    """Make `interactions` again from `events`: one strength for each user and item.

    `ingest` does this too; alone it serves after a change of the section interactions.
    """
    run_job("interactions", config, overrides, debug, result)


@app.command(epilog=sections("model", "train", "sgd"))
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


@app.command(epilog=sections("tune", "model", "train", "sgd", "evaluate"))
def tune(config: ConfigFile = None, overrides: Overrides = None, result: Result = None, debug: Debug = False) -> None:
    """Search for better hyperparameters, trial by trial, into `trials`.

    The first trial is the configuration as it is. A study that was cut off goes on with the trials that are missing.
    Nothing is trained for readers: `train --tuned STUDY` does that with the best values.
    """
    run_job("tune", config, overrides, debug, result)


@app.command(epilog=sections("evaluate"))
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


@app.command(epilog=sections("evaluate"))
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


@app.command(epilog=sections("stream"))
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


@app.command(epilog=sections("publish"))
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


@app.command(epilog=sections("publish"))
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
