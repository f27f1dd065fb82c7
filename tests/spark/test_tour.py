"""docs/tour.ipynb runs from its first cell to its last, and shows what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tour.ipynb"


def texts(cell) -> str:
    """Return all that a cell has shown as text."""
    return "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_tour_is_what_it_says(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient").NotebookClient
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = {cell.source.split("\n")[0]: texts(cell) for cell in code}
    figures = next(text for source, text in shown.items() if source.startswith("trained = "))
    assert "'model'" in figures
    assert "'popularity'" in figures
    assert next(text for source, text in shown.items() if source.startswith("table = ")).strip() == "True"
    score, total = next(text for text in shown.values() if text.startswith("score ")).split("\n")[0].split(", ")
    assert score.split()[-1] == total.split()[-1]
    if os.environ.get("LAKEFACTOR_SCREENSHOTS"):
        nbformat.write(notebook, NOTEBOOK)
