"""What the tests of whole streams share: a warehouse with a published model, which they copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lakefactor.pipelines import ingest, publish, recommend, train
from lakefactor.testing.stream_runs import EVENTS, lines, settings, write


@pytest.fixture(scope="session")
def trained(spark, tmp_path_factory) -> Path:
    """A warehouse with a published model; tests copy it."""
    root = tmp_path_factory.mktemp("trained")
    config = settings(root / "warehouse", root / "landing")
    write(root, "history.csv", lines(0, EVENTS))
    ingest.run(spark, config, [str(root / "history.csv")])
    publish.run(spark, config, train.run(spark, config).model_version)
    recommend.run(spark, config)
    return root / "warehouse"


@pytest.fixture
def place(trained, tmp_path) -> Path:
    """A folder of the test with a copy of that warehouse and an empty landing folder."""
    shutil.copytree(trained, tmp_path / "warehouse")
    (tmp_path / "landing").mkdir()
    return tmp_path
