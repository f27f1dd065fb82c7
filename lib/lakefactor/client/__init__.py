"""Ask a published model in Python: recommendations, similar items and users, scores, reasons; without Spark or torch.

>>> from lakefactor.client import Client
>>> client = Client("warehouse")                                                           # doctest: +SKIP
>>> client.recommend("u7", n=3).to_pandas()                                                # doctest: +SKIP
"""

from __future__ import annotations

from lakefactor.client.answers import Answer, Explanation
from lakefactor.client.client import Client

__all__ = ["Answer", "Client", "Explanation"]
