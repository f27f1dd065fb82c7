"""Where the tables are, without Spark: in folders of ``tables.root``, or where ``tables.metastore`` says they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lakefactor.config import Tables
from lakefactor.errors import ConfigError

Places = Callable[[str], str]
"""The folder or URI of a table, by its contract's name."""


def places(config: Tables) -> Places:
    """Return what knows where the tables are.

    Raises
    ------
    ConfigError
        Only Spark knows, since ``catalog`` is set and ``metastore`` is not; or what asks a metastore is not installed.
    """
    if config.root:
        root = config.root if ":" in config.root else str(Path(config.root).absolute())
        return lambda table: f"{root.rstrip('/')}/{table}"
    if not config.metastore:
        raise ConfigError(
            f"tables.catalog is {config.catalog!r}, and without Spark nobody knows where its tables are; set "
            "tables.metastore, as thrift://host:9083, or give the folder or URI that holds the tables, by --root"
        )
    try:
        from lakefactor.query.metastore import HiveMetastore
    except ModuleNotFoundError as error:
        raise ConfigError(f"tables.metastore needs {error.name}; run: pip install 'lakefactor[hive]'") from None
    return HiveMetastore(config.metastore, config.catalog)
