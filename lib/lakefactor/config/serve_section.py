"""The section on the service: where it listens, who may ask, how much, and what an answer goes by."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lakefactor.config.section import SECRET, NonNegative, Positive, Section


class Serve(Section):
    """The HTTP service of the live model (`lakefactor serve`)."""

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8088, ge=0, le=65_535, description="Port to listen on; 0: a free one, which the log names.")
    api_keys: dict[str, str] = Field(
        default={},
        description="Keys that callers give in the header `X-API-Key`, and people as a password, each by the name of "
        "who has it; 16 characters or more. Empty: nobody needs one, and only this machine may ask. Their values are "
        "shown and recorded nowhere.",
        json_schema_extra=SECRET,
    )
    insecure: bool = Field(
        False, description="Listen on other addresses than this machine's although nobody needs a key."
    )
    requests_per_second: NonNegative = Field(
        1000.0, description="Requests per second of a key (without keys: of an address) in the long run; 0: no limit."
    )
    burst: int = Field(2000, ge=1, description="Requests that a key may make at once.")
    dashboard: bool = Field(True, description="Show pages for people at `/`.")
    unknown_user: Literal["popular", "refuse"] = Field(
        "popular", description="What a user gets whom the model does not know: the most popular items, or an error."
    )
    max_n: int = Field(1000, ge=1, le=100_000, description="Longest list that may be asked for.")
    max_items: int = Field(1000, ge=1, le=1_000_000, description="Most items that a request may name.")
    max_body_bytes: int = Field(1_000_000, ge=1_000, description="Longest body of a request (bytes).")
    poll_seconds: Positive = Field(1.0, description="Seconds between two looks at the versions of the tables.")
    threads: int = Field(1, ge=1, le=1024, description="Threads of one scan of all items.")
    approximate_above: int = Field(
        500_000,
        ge=0,
        description="Items above which recommendations are searched in an index instead of among all items; their "
        "scores stay exact. 0: never.",
    )
    approximate_candidates: int = Field(
        4, ge=1, le=100, description="Items that the index proposes for each one that is asked for."
    )
    approximate_share: float = Field(
        0.2, gt=0, le=1, description="Share of the index's cells that a search looks into."
    )
