"""What a user has done, as a model sees it: interactions made of the user's events at this moment."""

from __future__ import annotations

import pyarrow as pa

from lakefactor.client.loaded import History, LoadedModel
from lakefactor.factorization.strengths import PairEvents
from lakefactor.query.lake import Lake

EVENT_COLUMNS = ("event_id", "user_id", "item_id", "event_type", "value", "event_time", "ingested_at")


def read_history(lake: Lake, model: LoadedModel, user: str | int) -> History:
    """Return a user's interactions by the events up to now; none where there are no events of the user.

    Strengths are as the model's stream makes them: measured against the events behind its training. A model of which
    nothing tells what these were goes by the rows of ``interactions``.
    """
    if model.span is None:
        pairs = lake.rows("interactions", ("item_id", "strength"), {"user_id": user})
    else:
        ids = pa.array([user], lake.schema("events").field("user_id").type)
        events = lake.of_ids("events", EVENT_COLUMNS, "user_id", ids)
        pairs = PairEvents(events, model.config, model.span).interactions()
    return model.history(pairs["item_id"].cast(model.catalogue.ids.type), pairs["strength"].to_numpy())
