"""The item side of a model, brought to the driver for a broadcast."""

from __future__ import annotations

import pyarrow as pa
from pyspark.sql import DataFrame

from lakefactor.config import Recommend
from lakefactor.errors import TableError
from lakefactor.factorization.catalogue import Catalogue, matrix
from lakefactor.spark.tables import Tables


def collect_catalogue(item_factors: DataFrame) -> Catalogue:
    """Bring item factors to the driver, for a broadcast.

    Parameters
    ----------
    item_factors : DataFrame
        ``item_id, factors, bias, n_entries`` of one model version.

    Raises
    ------
    TableError
        There are none.
    """
    table = item_factors.select("item_id", "factors", "bias", "n_entries").toArrow()
    if not table.num_rows:
        raise TableError("the model version has no item factors; train again (lakefactor train)")
    columns = table.sort_by("item_id").combine_chunks()
    return Catalogue(
        ids=_one_array(columns["item_id"]),
        factors=matrix(_one_array(columns["factors"])),
        bias=columns["bias"].to_numpy(),
        n_entries=columns["n_entries"].to_numpy(),
    )


def with_categories(tables: Tables, catalogue: Catalogue, rules: Recommend) -> Catalogue:
    """Add the items' categories from `items`, where a rule asks for them.

    Raises
    ------
    TableError
        There is no table `items`.
    """
    if not (rules.allow_categories or rules.deny_categories or rules.max_per_category):
        return catalogue
    return catalogue.with_categories(tables.rows("items", ("item_id", "category")))


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
