"""The commands around a pipeline: configuration first, one JSON line last, one line for an error."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from lakefactor import __version__
from lakefactor.cli import app
from lakefactor.cli.errors import explained
from lakefactor.config import Config
from lakefactor.errors import GateRefusedError, InputError, RankFailedError, SetupError, SolveError, TableError

CHECKOUT = Path(__file__).parents[2]
JOBS = sorted(path.stem for path in (CHECKOUT / "jobs").glob("*.py"))
COMMANDS = (
    *("ingest", "interactions", "train", "tune", "evaluate", "compare", "gate", "catchup", "publish", "quality"),
    *("items", "recommend", "explain", "stream", "experiment", "maintain", "forget", "demo"),
)
ARGUMENTS = {"ingest": ["a.csv"], "items": ["a.csv"], "experiment": ["start", "x"], "forget": ["--user", "7"]}
"""What a command cannot do without."""

Run = Callable[..., Any]


class Record(BaseModel):
    model_version: str = "v1"
    objective: float = 0.5
    metrics: dict[str, dict[str, float]] = {"model": {"auc": 0.75}, "popularity": {"auc": 0.5}}


class Calls(list[tuple[Any, ...]]):
    """What the pipelines were called with; `outcome` is what each returns or raises."""

    outcome: BaseModel | BaseException = Record()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stand-ins for Spark and the pipelines."""
    calls = Calls()

    @contextmanager
    def session(settings: Config, app_name: str) -> Iterator[str]:
        calls.append(("session", app_name, settings.model.rank))
        yield "spark"
        calls.append(("stopped",))

    def stand_in(stem: str) -> ModuleType:
        module = ModuleType(f"lakefactor.pipelines.{stem}")

        def run(spark: str, config: Config, **arguments: object) -> BaseModel:
            calls.append((stem, spark, arguments))
            if isinstance(calls.outcome, BaseException):
                raise calls.outcome
            return calls.outcome

        module.run = run  # type: ignore[attr-defined]
        return module

    monkeypatch.setattr("lakefactor.cli.running._session", session)
    for stem in COMMANDS:
        monkeypatch.setitem(sys.modules, f"lakefactor.pipelines.{stem}", stand_in(stem))
    return calls


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_the_last_line_of_stdout_is_the_result(calls: Calls) -> None:
    result = invoke("train", "--set", "model.rank=7")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == Record().model_dump()
    assert result.stdout.count("\n") == 1
    assert calls == [
        ("session", "lakefactor train", 7),
        ("train", "spark", {"fresh": False, "tuned": None}),
        ("stopped",),
    ]


def test_people_read_a_summary_on_stderr(calls: Calls) -> None:
    calls.outcome = Record(model_version="[bold]")
    summary = invoke("evaluate").stderr
    assert re.search(r"model version +│ +\[bold\]", summary)
    assert re.search(r"auc +│ +0.75 +│ +0.5", summary)


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (["ingest", "a.csv", "folder"], {"paths": ["a.csv", "folder"]}),
        (["interactions"], {}),
        (["train", "--fresh", "--tuned", "s1"], {"fresh": True, "tuned": "s1"}),
        (["tune"], {}),
        (["evaluate"], {"model_version": None}),
        (["evaluate", "--model-version", "v1"], {"model_version": "v1"}),
        (["compare"], {"champion": None, "challenger": None}),
        (["compare", "v1", "v2"], {"champion": "v1", "challenger": "v2"}),
        (["compare", "live", "v2"], {"champion": None, "challenger": "v2"}),
        (["compare", "v1", "newest"], {"champion": "v1", "challenger": None}),
        (["gate", "--model-version", "v1"], {"model_version": "v1"}),
        (["catchup"], {"model_version": None}),
        (["quality"], {}),
        (["publish"], {"model_version": None, "rollback": False}),
        (["publish", "--model-version", "v1"], {"model_version": "v1", "rollback": False}),
        (["publish", "--rollback"], {"model_version": None, "rollback": True}),
        (["items", "a.csv"], {"paths": ["a.csv"]}),
        (["recommend", "--model-version", "v1"], {"model_version": "v1", "changed": False}),
        (["recommend", "--changed"], {"model_version": None, "changed": True}),
        (["explain"], {"model_version": None}),
        (["experiment", "stop", "x"], {"action": "stop", "name": "x", "paths": []}),
        (["experiment", "expose", "x", "a.csv"], {"action": "expose", "name": "x", "paths": ["a.csv"]}),
        (["maintain", "--dry-run"], {"dry_run": True}),
        (["forget", "--user", "7", "--user", "8"], {"users": ["7", "8"], "users_file": None, "dry_run": False}),
        (["demo"], {"events": None}),
        (["demo", "--events", __file__], {"events": Path(__file__)}),
    ],
)
def test_options_reach_the_pipeline(calls: Calls, line: list[str], arguments: dict[str, object]) -> None:
    assert invoke(*line).exit_code == 0
    assert calls[1] == (line[0], "spark", arguments)


@pytest.mark.parametrize(("retrain", "status"), [(True, 0), (False, 8)])
def test_a_scheduler_is_told_by_the_exit_status_whether_to_train(calls: Calls, retrain: bool, status: int) -> None:
    class Looked(BaseModel):
        retrain: bool

    calls.outcome = Looked(retrain=retrain)
    found = invoke("quality", "--exit-code")
    assert found.exit_code == status
    assert json.loads(found.stdout) == {"retrain": retrain}
    assert invoke("quality").exit_code == 0


@pytest.mark.parametrize(
    ("stem", "arguments"),
    [
        ("ingest", {"paths": ["a.csv"]}),
        ("interactions", {}),
        ("train", {"fresh": False, "tuned": "s1"}),
        ("tune", {}),
        ("evaluate", {"model_version": None}),
        ("compare", {"champion": "v1", "challenger": None}),
        ("gate", {"model_version": None}),
        ("catchup", {"model_version": None}),
        ("quality", {}),
        ("publish", {"model_version": None, "rollback": False}),
        ("recommend", {"model_version": None}),
        ("experiment", {"action": "start", "name": "x", "paths": []}),
        ("maintain", {"dry_run": True}),
        ("forget", {"users": ["7"], "users_file": None, "dry_run": False}),
        ("demo", {"events": None}),
    ],
)
def test_pipelines_take_what_the_commands_give(stem: str, arguments: dict[str, object]) -> None:
    run = import_module(f"lakefactor.pipelines.{stem}").run
    assert list(signature(run).bind("spark", Config(), **arguments).arguments) == ["spark", "config", *arguments]


def test_a_job_finds_the_version_that_another_job_left(calls: Calls, tmp_path: Path) -> None:
    place = f"{tmp_path}/run 1/train.json"
    missing = invoke("publish", "--model-version", f"@{place}")
    assert missing.exit_code == InputError.exit_code
    assert f"--model-version @{place}: there is no result" in missing.stderr
    calls.outcome = Record(model_version="v7", objective=float("nan"))
    done = invoke("train", "--result", place)
    assert Path(place).read_text() == done.stdout.strip()
    assert invoke("publish", "--model-version", f"@{place}").exit_code == 0
    assert calls[-2] == ("publish", "spark", {"model_version": "v7", "rollback": False})
    Path(place).write_text("{}")
    assert invoke("publish", "--model-version", f"@{place}").exit_code == InputError.exit_code
    refused = invoke("train", "--result", "/dev/null/train.json")
    assert (refused.exit_code, refused.stdout) == (InputError.exit_code, "")


def test_a_training_finds_the_study_that_another_job_left(calls: Calls, tmp_path: Path) -> None:
    place = tmp_path / "tune.json"
    missing = invoke("train", "--tuned", f"@{place}")
    assert missing.exit_code == InputError.exit_code
    assert f"--tuned @{place}: there is no result" in missing.stderr
    place.write_text('{"study_id": "s7"}')
    assert invoke("train", "--tuned", f"@{place}").exit_code == 0
    assert calls[-2] == ("train", "spark", {"fresh": False, "tuned": "s7"})


def test_not_a_number_in_a_result_is_null(calls: Calls) -> None:
    calls.outcome = Record(objective=float("nan"))
    assert json.loads(invoke("train").stdout)["objective"] is None


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.rnak=8", "model.rnak (from --set): unknown key; did you mean model.rank?"),
        ("model.rank=many", "model.rank (from --set): found"),
        ("train.ranks=0", "train.ranks (from --set): found 0"),
        ("tables.root=a/../b", "must not have `..` segments"),
        ("tables.root=x`; DROP TABLE y", "must not have control characters or backticks"),
        ("nonsense", "write it as section.key=value"),
    ],
)
def test_a_bad_configuration_is_refused_before_spark(calls: Calls, command: str, override: str, message: str) -> None:
    paths = ARGUMENTS.get(command, [])
    result = invoke(command, *paths, "--set", override)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert calls == []


def test_a_missing_configuration_file_is_named(calls: Calls, tmp_path: Path) -> None:
    result = invoke("train", "--config", str(tmp_path / "no.toml"))
    assert (result.exit_code, result.stdout, calls) == (2, "", [])
    assert "no.toml: cannot read the configuration file" in result.stderr


def test_a_missing_events_file_is_named_before_spark(calls: Calls) -> None:
    result = invoke("demo", "--events", "no.csv")
    assert (result.exit_code, result.stdout, calls) == (4, "", [])
    assert "error: --events no.csv: there is no such file" in result.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SetupError("no Java"), 3),
        (TableError("table t is missing"), 4),
        (SolveError([1], "3 rows are singular; raise model.user_reg"), 5),
        (GateRefusedError("refused"), 6),
        (RankFailedError("rank 1 died"), 7),
    ],
)
def test_an_error_is_one_line_and_its_exit_status(calls: Calls, error: Exception, status: int) -> None:
    calls.outcome = error
    result = invoke("train")
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", f"error: {error}\n")


def test_an_unexpected_error_shows_its_trace_on_request(calls: Calls) -> None:
    calls.outcome = ZeroDivisionError("division by zero\nmore")
    result = invoke("train")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == ("error: unexpected ZeroDivisionError: division by zero; rerun with --debug to see where\n")
    debugged = invoke("train", "--debug")
    assert debugged.exit_code == 1
    assert "Traceback (most recent call last)" in debugged.stderr
    assert debugged.stderr.splitlines()[-1] == "error: unexpected ZeroDivisionError: division by zero"


def test_an_interrupt_is_a_sentence(calls: Calls) -> None:
    calls.outcome = KeyboardInterrupt()
    result = invoke("train")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "interrupted; what was finished is kept, and the same command can be run again\n"


def test_an_error_while_cleaning_up_after_an_interrupt_is_the_interrupt(calls: Calls) -> None:
    calls.outcome = RuntimeError("the connection is gone")
    calls.outcome.__context__ = ValueError("another")
    calls.outcome.__context__.__context__ = KeyboardInterrupt()
    assert invoke("train").exit_code == 130


def test_a_users_mistake_that_spark_finds_is_explained() -> None:
    from pyspark.errors import AnalysisException, PythonException

    refused = explained(AnalysisException("[PATH_NOT_FOUND] Path does not exist: x.\nJVM stacktrace:\nat org.apache"))
    assert isinstance(refused, InputError)
    assert str(refused).startswith("Spark refused it: [PATH_NOT_FOUND] Path does not exist: x.; check ")
    raised = explained(PythonException("Job aborted\nTraceback ...\nlakefactor.errors.SolveError: 2 rows\n at x"))
    assert isinstance(raised, SolveError)
    assert str(raised) == "2 rows"
    full = explained(PythonException("Job aborted due to stage failure\njava.io.IOException: No space left on device"))
    assert str(full).startswith("a disk is full; ")
    assert explained(PythonException("something else")) is None


def test_a_missing_package_is_a_setup_error() -> None:
    assert str(explained(ModuleNotFoundError(name="pyspark"))).startswith("the Python package pyspark is not installed")


def test_config_prints_what_is_in_effect(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[model]\nrank = 9\nseed = 5\n")
    line = ("config", "--config", str(file), "--set", "model.rank=11")
    values = json.loads(invoke(*line, "--json").stdout)
    assert (values["model"]["rank"], values["model"]["seed"]) == (11, 5)
    file.write_text(invoke(*line).stdout)
    assert json.loads(invoke("config", "--config", str(file), "--json").stdout) == values


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_config_prints_no_secret(as_json: tuple[str, ...]) -> None:
    shown = invoke("config", "--set", "stream.kafka_options={sasl='canary'}", *as_json).stdout
    assert "(hidden)" in shown
    assert "canary" not in shown


@pytest.mark.parametrize("line", [("train", "--result"), ("publish", "--model-version")])
def test_a_place_of_a_result_holds_no_password(line: tuple[str, ...], calls: Calls) -> None:
    at = "@" if line[1] == "--model-version" else ""
    result = invoke(*line, f"{at}s3://key:canary@bucket/train.json")
    assert result.exit_code == InputError.exit_code
    assert "the place of a result must not hold a password" in result.stderr
    assert "canary" not in result.output


def test_the_version_is_told() -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"lakefactor {__version__}\n")


def test_help_names_every_command_and_exit_status() -> None:
    text = invoke("--help").stdout
    for command in (*COMMANDS, "query", "config"):
        assert re.search(rf"^│ {command} ", text, re.MULTILINE)
    assert "6 the quality gate refused" in " ".join(text.split())


def test_a_wrong_command_line_is_exit_status_2() -> None:
    for line in (
        ["trian"],
        ["train", "extra"],
        ["ingest"],
        ["publish", "--rolback"],
        ["query", "models", "--limit", "x"],
    ):
        assert invoke(*line).exit_code == 2


def test_every_pipeline_has_a_job() -> None:
    assert sorted(COMMANDS) == JOBS


@pytest.mark.parametrize("stem", JOBS)
def test_a_job_is_the_command_of_its_name(
    calls: Calls, stem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ARGUMENTS.get(stem, [])
    monkeypatch.setattr(sys, "argv", [f"jobs/{stem}.py", *paths, "--set", "model.rank=7"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(CHECKOUT / "jobs" / f"{stem}.py"), run_name="__main__")
    assert stop.value.code == 0
    assert calls[0] == ("session", f"lakefactor {stem}", 7)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])
