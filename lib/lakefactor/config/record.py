"""A configuration as recorded text: canonical JSON, and its digest."""

from __future__ import annotations

import hashlib
import json

from lakefactor.config.sections import Section


def canonical_json(config: Section) -> str:
    """Return the one JSON text of equal configurations: every key, sorted, without blanks.

    >>> from lakefactor.config.sections import Interactions
    >>> canonical_json(Interactions())
    '{"half_life_days":0.0,"log_scale":0.0}'
    """
    return json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(config: Section) -> str:
    """Return the SHA-256 of the canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()
