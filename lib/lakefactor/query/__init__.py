"""Read factors, recommendations and model versions from Delta without Spark.

The library behind ``lakefactor query``, for applications too: :class:`Reader` gives Arrow tables. Imports neither Spark
nor torch.
"""

from __future__ import annotations

from lakefactor.query.reader import Reader

__all__ = ["Reader"]
