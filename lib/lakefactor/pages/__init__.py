"""Pages for people: charts as inline SVG, numbers as text, templates and one stylesheet, without a script.

Shared by the dashboard and by ``lakefactor report``; knows neither Spark nor torch.
"""

from __future__ import annotations

from lakefactor.pages.charts import Chart
from lakefactor.pages.rendering import environment, stylesheet

__all__ = ["Chart", "environment", "stylesheet"]
