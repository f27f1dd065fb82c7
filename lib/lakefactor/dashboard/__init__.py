"""The dashboard: pages about models, the stream, the catalogue, users and items, read from the tables without Spark.

>>> from lakefactor.config import Config
>>> from lakefactor.dashboard import create_dashboard
>>> app = create_dashboard(Config())  # an ASGI application
"""

from __future__ import annotations

from lakefactor.dashboard.app import create_dashboard

__all__ = ["create_dashboard"]
