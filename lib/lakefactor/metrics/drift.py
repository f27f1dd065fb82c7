"""Does the model's quality change? Two detectors on every prequential metric of every segment.

The detectors see one value per micro-batch, the figure that ``stream_ledger.metrics`` keeps. So what a restarted stream
reads back from the ledger brings them to the very state of the stream that never stopped, and no state is stored.

Both detectors of river have constants that fit values of about one. A recall of 0.12 that wavers by 0.01 would never
move them, so each detector first takes the mean and standard deviation of `BASELINE` micro-batches and from then on
sees standard scores. After a change it starts over with a new baseline.

References
----------
Bifet, Gavalda, "Learning from time-changing data with adaptive windowing", SDM 2007 (ADWIN).
Page, "Continuous inspection schemes", Biometrika 41, 1954; Hinkley, "Inference about the change-point from cumulative
sum tests", Biometrika 58, 1971 (Page-Hinkley).
Hinkley, "Inference about the change-point in a sequence of random variables", Biometrika 57, 1970 (where it was).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakefactor.config import Stream
from lakefactor.metrics.prequential import SEGMENTS

BASELINE = 30
"""Micro-batches from which a detector learns the metric's mean and standard deviation; it cannot fire before."""

TOLERATED = 0.25
"""Shift of the mean (standard deviations) that Page-Hinkley takes for noise."""

FULL_SCALE = 4.0
"""Standard score that ADWIN, whose bound is for values from 0 to 1, sees as 1; its negative is 0, beyond is clipped."""

WATCHED = ("recall_at_", "ndcg_at_", "rmse")
"""How the names of prequential metrics begin; the ledger's other figures, such as distances, are not watched."""


@dataclass(frozen=True)
class Change:
    """A change that a detector saw: a row of ``drift`` without its stream and time.

    Attributes
    ----------
    batch_id : int
        Micro-batch in which the detector fired.
    model_version : str
        Version that was live.
    segment, metric : str
    detector : str
        ``adwin`` or ``page_hinkley``.
    before, after : float
        Mean of the metric before and after the likeliest change point since the detector started over.
    """

    batch_id: int
    model_version: str
    segment: str
    metric: str
    detector: str
    before: float
    after: float


class DriftWatch:
    """Watches the metrics of one stream.

    Parameters
    ----------
    settings : lakefactor.config.Stream
        ``adwin_delta`` and ``page_hinkley_threshold``.

    Examples
    --------
    >>> watch = DriftWatch(Stream())
    >>> recalls = [0.2 + 0.01 * (-1) ** batch_id for batch_id in range(100)] + [0.1] * 20
    >>> changes = [c for i, recall in enumerate(recalls) for c in watch.update(i, "v1", {"recall_at_10": recall})]
    >>> first = changes[0]
    >>> first.batch_id, first.segment, first.detector, round(first.before, 3), round(first.after, 3)
    (105, 'all', 'page_hinkley', 0.2, 0.1)
    """

    def __init__(self, settings: Stream) -> None:
        # Seconds, most of them for scikit-learn where it is installed: paid here, where a stream starts, and by no
        # other user of the metrics.
        import river.drift  # noqa: F401

        self._settings = settings
        self._model_version = ""
        self._last_batch = -1
        self._last_changes: list[Change] = []
        self._detectors: dict[tuple[str, str], _Detector] = {}

    def update(self, batch_id: int, model_version: str, metrics: Mapping[str, float]) -> list[Change]:
        """Take in the figures of a micro-batch.

        Parameters
        ----------
        batch_id : int
            Micro-batch. One that was seen already changes nothing; the last one's answer is given again.
        model_version : str
            Version that was scored. With another one than before, all detectors start over: a publish is no drift.
        metrics : mapping of str to float
            As ``stream_ledger.metrics`` keeps them (`lakefactor.metrics.prequential.batch_means`). What is not a
            prequential metric, or not finite, is passed over; a metric may be missing where its segment had no event.

        Returns
        -------
        list of Change
            In order of metric name, then detector.
        """
        if batch_id <= self._last_batch:
            return list(self._last_changes) if batch_id == self._last_batch else []
        self._last_batch = batch_id
        if model_version != self._model_version:
            self._model_version = model_version
            self._detectors.clear()
        changes = []
        for name in sorted(name for name, value in metrics.items() if is_watched(name) and isfinite(value)):
            metric, _, segment = name.partition(".")
            for kind, make in (("adwin", _Adwin), ("page_hinkley", _PageHinkley)):
                if (name, kind) not in self._detectors:
                    self._detectors[name, kind] = make(self._settings)
                means = self._detectors[name, kind].update(metrics[name])
                if means is not None:
                    changes.append(Change(batch_id, model_version, segment or "all", metric, kind, *means))
        self._last_changes = changes
        return list(changes)

    def replay(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Take in rows of ``stream_ledger`` after a restart; the changes in them were recorded at their time.

        Parameters
        ----------
        batches : iterable of mappings
            With ``batch_id``, ``model_version`` and ``metrics``, in any order; rows without a version are passed over.
            Those that come before the last change of the version are not needed, as all detectors started over there.
        """
        rows = sorted((row for row in batches if row["model_version"]), key=lambda row: row["batch_id"])
        started = max((i for i in range(1, len(rows)) if _version(rows[i]) != _version(rows[i - 1])), default=0)
        for row in rows[started:]:
            self.update(row["batch_id"], _version(row), dict(row["metrics"] or {}))


def _version(row: Mapping[str, Any]) -> str:
    return str(row["model_version"])


def is_watched(name: str) -> bool:
    """Tell whether a figure of the ledger is a prequential metric.

    >>> [is_watched(name) for name in ("recall_at_10", "rmse.new_users", "user_distance", "rmse.elsewhere")]
    [True, True, False, False]
    """
    metric, dot, segment = name.partition(".")
    return metric.startswith(WATCHED) and (segment in SEGMENTS if dot else True)


def change_point(values: NDArray[np.float64]) -> int:
    """Return the place of the first value after the likeliest single change of the mean.

    Parameters
    ----------
    values : float64 array, shape (n,), n >= 2

    Returns
    -------
    int
        In [1, n - 1]: of all splits the one with the least sum of squares, which is the maximum-likelihood estimate for
        normal values of one variance; it maximises ``|sum_{i < p} (v_i - mean)| / sqrt(p (n - p))``.

    Examples
    --------
    >>> change_point(np.array([1.0, 1.2, 0.9, 1.1, 3.0, 3.1]))
    4
    """
    n = len(values)
    sizes = np.arange(1, n)
    deviations = np.cumsum(values - values.mean())[:-1]
    return int(np.argmax(np.abs(deviations) / np.sqrt(sizes * (n - sizes)))) + 1


class _Detector:
    """A test of river on standard scores; a subclass says which test, and where it sees the change point."""

    def __init__(self, settings: Stream) -> None:
        self._settings = settings
        self._start_over()

    def _start_over(self) -> None:
        self._values = array("d")
        self._low, self._high = inf, -inf
        self._test: Any = None

    def update(self, value: float) -> tuple[float, float] | None:
        """Take in a value; return the means before and after where it shows a change."""
        self._values.append(value)
        unseen: Sequence[float] = [value]
        if self._test is None:
            unseen = self._values
            self._low, self._high = min(self._low, value), max(self._high, value)
            # Sums in another order differ in the last bits: that is no spread.
            spread = self._high - self._low > 1e-9 * max(abs(self._low), abs(self._high))
            if len(unseen) < BASELINE or not spread:
                return None
            self._test = self._make_test()
            self._mean, self._deviation = float(np.mean(unseen)), float(np.std(unseen, ddof=1))
        for each in unseen:
            self._test.update(self._scaled((each - self._mean) / self._deviation))
        # No test fires within the baseline: before its last value there are less than BASELINE, or all are equal.
        if not self._test.drift_detected:
            return None
        values = np.array(self._values)
        self._start_over()
        place = change_point(values)
        return float(values[:place].mean()), float(values[place:].mean())

    def _make_test(self) -> Any:
        raise NotImplementedError

    def _scaled(self, score: float) -> float:
        return score


class _Adwin(_Detector):
    def _make_test(self) -> Any:
        from river.drift import ADWIN

        # `clock` 1: a change is looked for at every micro-batch; river's 32 are for single events.
        return ADWIN(delta=self._settings.adwin_delta, clock=1, grace_period=BASELINE)

    def _scaled(self, score: float) -> float:
        return min(max(0.5 + score / (2 * FULL_SCALE), 0.0), 1.0)


class _PageHinkley(_Detector):
    def _make_test(self) -> Any:
        from river.drift import PageHinkley

        return PageHinkley(
            min_instances=BASELINE, delta=TOLERATED, threshold=self._settings.page_hinkley_threshold, mode="both"
        )
