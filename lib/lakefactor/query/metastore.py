"""A Hive metastore, asked where tables are. Needs ``lakefactor[hive]``: pyiceberg brings Hive's Thrift client."""

from __future__ import annotations

from contextlib import closing
from urllib.parse import urlsplit

from hive_metastore.ThriftHiveMetastore import Client
from hive_metastore.ttypes import GetTableRequest, NoSuchObjectException, StorageDescriptor
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TException
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TBufferedTransport

from lakefactor.errors import TableError

ANSWER_SECONDS = 10
"""How long one metastore may take to answer."""


class HiveMetastore:
    """Knows where the tables of one schema are, by a metastore of Hive 2.3 or later.

    Every question is a connection of its own, so threads may ask at once. A place is asked for once: tables do
    not move.

    Parameters
    ----------
    uris : str
        ``thrift://host:port``, or several with commas between: the first one that answers counts.
    catalog : str
        ``schema`` or ``catalog.schema``. Spark's name of the catalog is unknown to the metastore and not looked at.
    """

    def __init__(self, uris: str, catalog: str) -> None:
        self._uris, self._catalog = uris, catalog
        self._known: dict[str, str] = {}

    def __call__(self, table: str) -> str:
        """Return the folder or URI of `table`; its name in the catalog, if the catalog has no such table.

        Raises
        ------
        TableError
            No metastore answers, or it refuses.
        """
        if table in self._known:
            return self._known[table]
        request = GetTableRequest(self._catalog.rpartition(".")[2], table)
        failures = []
        for server in map(urlsplit, self._uris.split(",")):
            try:
                storage = _ask(TSocket(server.hostname, server.port), request)
            except NoSuchObjectException:
                return f"{self._catalog}.{table}"
            except TException as error:
                failures.append(str(error))
            else:
                return self._known.setdefault(table, _place(storage))
        raise TableError(
            f"the metastore {self._uris} does not say where table {self._catalog}.{table} is: {'; '.join(failures)}; "
            "check tables.metastore, and that a metastore listens there"
        )


def _ask(socket: TSocket, request: GetTableRequest) -> StorageDescriptor:
    socket.setTimeout(1000 * ANSWER_SECONDS)
    with closing(TBufferedTransport(socket)) as transport:
        transport.open()
        return Client(TBinaryProtocol(transport)).get_table_req(request).table.sd


def _place(storage: StorageDescriptor) -> str:
    """Return where a table of Spark's is: `location` is a placeholder where the table lies outside the schema's folder.

    Spark writes paths as they are, and not as URIs have them.

    >>> from hive_metastore.ttypes import SerDeInfo
    >>> _place(StorageDescriptor(location="file:/lake/50%25", serdeInfo=SerDeInfo(parameters={})))
    '/lake/50%25'
    """
    place = storage.serdeInfo.parameters.get("path") or storage.location
    return "/" + place.removeprefix("file:").lstrip("/") if place.startswith("file:") else place
