from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from lakefactor.cli import app
from lakefactor.testing.warehouse import LIVE, OLD, REFUSED, Warehouse


@pytest.fixture
def report(root):
    Warehouse(root)
    place = ["--set", f"tables.root={json.dumps(str(root))}"]
    return lambda *arguments: CliRunner().invoke(app, ["report", *arguments, *place])


@pytest.mark.parametrize(("given", "version"), [((), LIVE), (("newest",), REFUSED), ((OLD,), OLD)])
def test_the_page_needs_nothing_else(report, tmp_path, given, version):
    file = tmp_path / "a b.html"
    result = report(*given, "--out", str(file))
    assert result.exit_code == 0, result.output
    text = file.read_text("utf-8")
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "model_version": version, "path": str(file), "bytes": len(text.encode()),
    }  # fmt: skip
    assert f"Report of model {version}" in text
    assert "<script" not in text
    places = re.findall(r'(?:src|href|action)="([^"]*)"', text)
    assert [place for place in places if not place.startswith(("#", "data:"))] == []
    assert "url(" not in text
    assert "NaN" not in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text or version == OLD
    assert "<b>bold" not in text


def test_by_itself_it_lands_here(report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report().exit_code == 0
    assert (tmp_path / f"report-{LIVE}.html").exists()


def test_mistakes_are_one_line(report, tmp_path):
    result = report("nope")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr.startswith("error: model version 'nope' is not in table models")
    result = report("--out", str(tmp_path / "no" / "such.html"))
    assert result.exit_code == 4
    assert "cannot be written: No such file or directory" in result.stderr
