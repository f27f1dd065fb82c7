"""docs/results.md and docs/scaling.md say what the raw results say."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # where python puts a script's own folder
    return import_module("report")


def test_results_page_is_made_from_the_raw_results(report):
    assert (ROOT / "docs" / "results.md").read_text() == report.page(), "run `make docs`"


def test_scaling_page_shows_the_raw_results(report):
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert text == report.scaling_page(text), "run `make docs`"


def test_formulas_are_within_ten_percent_of_what_was_measured(report):
    for run in report.results("scaling")["runs"]:
        assert run["sent_bytes_per_iteration"]["formula"] == pytest.approx(
            run["sent_bytes_per_iteration"]["measured"], rel=0.1
        )
        assert run["fit_peak_bytes"]["formula"] == pytest.approx(run["fit_peak_bytes"]["measured"], rel=0.1)
