"""What a person sees of a running training: one line per iteration, or one live line on a terminal."""

from __future__ import annotations

from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lakefactor.log import printable

LINE_EVERY_SECONDS = 2.0
"""Where output is not a terminal: at most one line in this time, and always the first and the last."""


class TrainingProgress:
    """Shows the events of :func:`lakefactor.spark.training.train_interactions`; use it in a ``with`` block.

    Parameters
    ----------
    iterations : int
        Iterations to come.
    label : str
        Begins every line.
    """

    def __init__(self, iterations: int, label: str = "train") -> None:
        self._iterations = iterations
        self._label = label
        self._console = Console(stderr=True, highlight=False)
        self._last_line = -LINE_EVERY_SECONDS
        self._notes: list[str] = []
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console) if self._console.is_terminal else None

    def __enter__(self) -> TrainingProgress:
        self._line("reading interactions")
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._iterations, detail="")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if event.get("phase") == "note":
            self.note(event["text"])
        if event.get("phase") != "iteration":
            return
        number, left = event["number"], self._iterations - event["number"]
        rate = 2 * event["entries"] / max(event["seconds"], 1e-9)
        metric = "" if event["metric"] is None else f"held-out metric {event['metric']:.4f}, "
        detail = f"objective {event['objective']:.6g}, {metric}{_short(rate)} entries/s"
        if self._bar:
            self._bar.update(self._task, completed=number, detail=detail)
            return
        now = monotonic()
        if number == 1 or not left or now - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = now
            self._line(f"iteration {number}/{self._iterations}, {detail}, about {left * event['seconds']:.0f} s left")

    def note(self, text: str) -> None:
        """Show a line of what happens beside the iterations."""
        self._notes.append(text)
        self._line(printable(text))

    def told(self) -> dict[str, list[str]]:
        """Return the notes so far, for `run_log`."""
        return {"notes": list(self._notes)}

    def _line(self, text: str) -> None:
        self._console.print(f"{self._label}: {text}", soft_wrap=True, markup=False)


def _short(number: float) -> str:
    """Return a number with a unit letter.

    >>> _short(12_345_678.0), _short(950.0)
    ('12.3M', '950')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"
