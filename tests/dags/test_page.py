"""Airflow's page in a real browser: a person signs in, triggers `train` with parameters, and sees the run go green.

LAKEFACTOR_SCREENSHOTS=1 keeps what the person sees then as docs/images/airflow-train.png.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lakefactor.config import Config
from lakefactor.pipelines import ingest
from lakefactor.pipelines.models import live_version
from lakefactor.spark.tables import Tables
from lakefactor.testing.ports import free_ports
from lakefactor.testing.stream_runs import lines, write

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHECKOUT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENSHOT = CHECKOUT / "docs" / "images" / "airflow-train.png"
START_SECONDS, ANSWER_SECONDS, RUN_SECONDS = 300, 60, 1800
"""Longest waits: for Airflow to be up, for the page to do what was asked, for the run to end."""
TASKS = 8
"""Of the DAG `train`."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (Debian: apt-get install chromium)"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason="no playwright; `make test-airflow` installs it"
    ),
]


@dataclass(frozen=True)
class Site:
    """A running Airflow."""

    address: str
    password: str


@pytest.fixture
def site(airflow, tmp_path) -> Iterator[Site]:
    """`airflow standalone` on free ports, which ends with the test."""
    home = tmp_path / "airflow"
    home.mkdir()
    page, worker, triggerer = free_ports(3)
    address = f"http://127.0.0.1:{page}"
    settings = {
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(page),
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(triggerer),
        "NO_COLOR": "1",
    }
    fresh = airflow.at(home)
    environment = fresh.environment | settings
    pools = fresh.python("-m", "airflow", "pools", "import", str(CHECKOUT / "conf" / "airflow" / "pools.json"))
    assert pools.returncode == 0, pools.stderr[-5000:]
    with started([shutil.which("airflow", path=environment["PATH"]), "standalone"], environment, home):
        passwords = home / "simple_auth_manager_passwords.json.generated"
        yield Site(address, json.loads(passwords.read_text())["admin"])


@contextmanager
def started(command: list[str], environment: dict[str, str], home: Path) -> Iterator[None]:
    """Run Airflow in a process group of its own beside the body, from when it says that it is up."""
    said: list[str] = []
    waited_for = {"Airflow is ready", r"api-server \| .*Uvicorn running on"}
    up = threading.Event()

    def listen() -> None:
        for line in process.stdout:
            said.append(line)
            waited_for.difference_update([text for text in waited_for if re.search(text, line)])
            if not waited_for:
                up.set()
        up.set()

    process = subprocess.Popen(
        command, env=environment, cwd=home, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    try:
        up.wait(START_SECONDS)
        assert not waited_for, f"Airflow is not up after {START_SECONDS} s: {''.join(said)[-5000:]}"
        yield
    finally:
        end_group(process)
        listening.join()
        process.stdout.close()


def end_group(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started: asked first, then killed."""
    os.killpg(process.pid, signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def page(site) -> Iterator[Page]:
    """The page of the DAG `train`, as a browser without a window shows it to who has signed in."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(1000 * ANSWER_SECONDS)
        page.goto(f"{site.address}/dags/train")
        page.get_by_label("Username").fill("admin")
        page.get_by_label("Password").fill(site.password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/dags/train")
        yield page
        browser.close()


def parameters(config: Config) -> list[str]:
    """Return the keys that make a run small."""
    keys = {
        "tables.root": config.tables.root,
        "spark.driver_memory": "1g",
        "spark.shuffle_partitions": 2,
        "model.rank": 4,
        "train.iterations": 3,
        "train.ranks": 2,
        "evaluate.split": "random_holdout",
        "publish.beat_popularity": "false",
        "recommend.n": 3,
    }
    return [f"{key}={value}" for key, value in keys.items()]


def test_train_is_triggered_and_seen_to_succeed(spark, config, page, tmp_path):
    from playwright.sync_api import expect

    write(tmp_path, "events.csv", lines(1, 500))
    ingest.run(spark, config, [str(tmp_path / "events.csv")])

    page.get_by_role("button", name="Trigger Dag").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("checkbox", name="Unpause train on trigger")).to_be_checked()
    dialog.get_by_placeholder("Enter each string on a new line").fill("\n".join(parameters(config)))
    dialog.get_by_role("button", name="Trigger").click()

    page.wait_for_url("**/dags/train/runs/*")
    tasks = page.get_by_role("table").get_by_role("row")
    last = tasks.filter(has_text="recommend").filter(has_text=re.compile("Success|Failed"))
    expect(last).to_be_visible(timeout=1000 * RUN_SECONDS)
    expect(tasks.filter(has_text="Success")).to_have_count(TASKS)
    expect(page.get_by_text("Running", exact=True)).to_have_count(0)  # the run, too
    if os.environ.get("LAKEFACTOR_SCREENSHOTS"):
        SCREENSHOT.parent.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOT)

    tables = Tables(spark, config.tables)
    (model,) = tables.collect("models")
    assert live_version(tables) == model["model_version"]
    assert [row["action"] for row in tables.collect("decisions")] == ["publish"]
    lists = tables.read("recommendations").groupBy("model_version", "user_id").count().collect()
    assert {(row["model_version"], row["count"]) for row in lists} == {(model["model_version"], 3)}
    assert len(lists) == model["n_users"]
