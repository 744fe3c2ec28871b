"""Export of the ledger as CSV or Parquet, batch by batch, in constant memory.

Both have the same columns in the same order: the fields of a call, with its time as a UTC timestamp in microseconds.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from gradwire.server.errors import StoreConfigError
from gradwire.server.store.records import CallRecord, moment

COLUMNS = ("at", *CallRecord._fields[1:])
_TEXTS = {"server", "principal", "model", "version", "operation", "outcome", "request_id"}


def write_csv(batches: Iterable[list[CallRecord]], file: IO[str]) -> Iterator[int]:
    """Writes calls as CSV with a heading; yields the size of each written batch.

    Args:
        batches: Batches of `Store.calls`.
        file: Text file, opened with ``newline=""``.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for batch in batches:
        writer.writerows((moment(call.at_us).isoformat(timespec="microseconds"), *call[1:]) for call in batch)
        yield len(batch)


def write_parquet(batches: Iterable[list[CallRecord]], path: Path) -> Iterator[int]:
    """Writes calls as Parquet; yields the size of each written batch.

    Raises:
        StoreConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as e:
        raise StoreConfigError(f"Parquet needs {e.name}, which is not installed: pip install 'gradwire[parquet]'") from None
    schema = pa.schema([_field(pa, name) for name in COLUMNS])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            columns = [pa.array(values, type=field.type) for values, field in zip(zip(*batch, strict=True), schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            yield len(batch)


def _field(pa: Any, name: str) -> Any:
    if name == "at":
        return pa.field(name, pa.timestamp("us", tz="UTC"), nullable=False)
    return pa.field(name, pa.string() if name in _TEXTS else pa.int64(), nullable=False)
