"""SIGKILL to the process of a stream at random moments: what it leaves, in the end, is what an unbroken run leaves."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from lakefactor.config import Config
from lakefactor.pipelines import stream
from lakefactor.testing.stream_runs import TABLES, outcome, settings, write_batches

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("LAKEFACTOR_KILLS", "2"))
LONGEST = 300.0
"""Seconds that a process may take; a bound on waiting, not an assertion about speed."""

KEYS = {"max_rows": 1, "fold_every": 2}
LOGS = ("events", "rejects", "factor_updates", "stream_ledger", "recommendations", "user_factors")
"""Their commits are what a process is watched by."""


def command(config: Config) -> list[str]:
    """Return the command of the stream, with every key of the configuration that is not at its default."""
    default = Config()
    changed = [
        f"{section}.{key}={str(value).lower() if isinstance(value, bool) else value}"
        for section, keys in config.model_dump().items()
        for key, value in keys.items()
        if value != getattr(getattr(default, section), key)
    ]
    overrides = ["spark.master=local[2]", "spark.driver_memory=1g", "spark.shuffle_partitions=2", *changed]
    return [
        sys.executable, "-c", "from lakefactor.cli import main; main()", "stream", "--available-now",
        *(part for override in overrides for part in ("--set", override)),
    ]  # fmt: skip


def progress(warehouse: Path, data_too: bool) -> int:
    """Return how many files the tables' logs and the checkpoint have, and the tables themselves where asked for."""
    parts = [warehouse / table / "_delta_log" for table in LOGS] + [warehouse / "_checkpoints"]
    parts += [warehouse / table for table in LOGS] if data_too else []
    return sum(len(files) for part in parts for _, _, files in os.walk(part))


def run_process(config: Config, folder: Path, draw: random.Random | None) -> int:
    """Run the stream until it ends, or until a moment that is drawn, then kill it; return its status."""
    warehouse = Path(config.tables.root)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": (folder / "stderr").open("w")}
    moments = [0, *range(1, 25)]  # further files; the first says that it has begun
    data_too, wanted, whole = (
        (draw.random() < 0.5, draw.choice(moments), draw.random() < 0.5) if draw else (False, 0, False)
    )
    before = progress(warehouse, data_too)
    with subprocess.Popen(command(config), start_new_session=True, cwd=folder, **pipes) as process:
        until = monotonic() + LONGEST
        while process.poll() is None and not (draw and progress(warehouse, data_too) > before + wanted):
            assert monotonic() < until, (folder / "stderr").read_text()[-3000:]
            sleep(0.001)  # between two looks
        if process.poll() is None:
            if whole:
                os.killpg(process.pid, signal.SIGKILL)  # with its JVM, as when the machine dies
            else:
                process.kill()  # its JVM ends by itself when it notices, and may be at a commit meanwhile
    return process.returncode


def test_a_stream_killed_at_random_moments_ends_as_an_unbroken_one(spark, trained, tmp_path):
    """Two kills here; `make test-faults` sets LAKEFACTOR_KILLS=20."""

    def prepared(name: str) -> Config:
        shutil.copytree(trained, tmp_path / name / "warehouse")
        write_batches(tmp_path / name / "landing")
        return settings(tmp_path / name / "warehouse", tmp_path / name / "landing", **KEYS)

    config = prepared("unbroken")
    assert stream.run(spark, config, available_now=True).batches == 3
    expected = outcome(spark, config)
    draw, killed, number = random.Random(20261125), 0, 0
    while killed < KILLS:
        config = prepared(f"broken-{number}")
        folder, number, status = tmp_path / f"broken-{number}", number + 1, -signal.SIGKILL
        while status == -signal.SIGKILL:
            status = run_process(config, folder, draw if killed < KILLS else None)
            killed += status == -signal.SIGKILL
        assert status == 0, (folder / "stderr").read_text()[-3000:]
        found = outcome(spark, config)
        for table in TABLES:
            assert found[table] == expected[table], (number, table)
