"""The live model over HTTP: one immutable snapshot in memory, replaced as a whole when the tables change.

`keeper` watches the tables and swaps snapshots, `answering` answers from the one it finds, `scans` ranks all items
beside the event loop. Knows neither Spark nor torch.
"""

from __future__ import annotations

from lakefactor.service.app import create_app

__all__ = ["create_app"]
