"""Current tables of the database. A test compares them with the result of the migrations.

Numbers of rows and microseconds have 64 bits. Names are text of any length: they are checked where they enter the server.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text

VERSION = "0001"
"""Newest migration, the target of `gradwire.server.store.migrate`."""

metadata = MetaData()

grants = Table(
    "grants",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("access", Text, nullable=False),
    Column("activations", Boolean, nullable=False),
    Column("operations", Text),
    Column("decimals", Integer),
    Column("top_k", Integer),
    Column("max_forward", BigInteger),
    Column("max_backward", BigInteger),
    Column("window_s", BigInteger),
    Column("window_forward", BigInteger),
    Column("window_backward", BigInteger),
    Column("rows_per_s", Float(53)),
    Column("expires_at_us", BigInteger),
    Column("revoked", Boolean, nullable=False),
    Column("updated_at_us", BigInteger, nullable=False),
)

# One row: the number of changes of grants.
generation = Table(
    "generation",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("changes", BigInteger, nullable=False),
)

# period: '' for the total, else the length of a window in seconds. restocks: used in the row of the total only.
budgets = Table(
    "budgets",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("window_start", BigInteger, nullable=False),
    Column("taken_forward", BigInteger, nullable=False),
    Column("taken_backward", BigInteger, nullable=False),
    Column("restocks", BigInteger, nullable=False),
)

usage = Table(
    "usage",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("used_forward", BigInteger, nullable=False),
    Column("used_backward", BigInteger, nullable=False),
)

calls = Table(
    "calls",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at_us", BigInteger, nullable=False),
    Column("server", Text, nullable=False),
    Column("principal", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("forward", BigInteger, nullable=False),
    Column("backward", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("latency_us", BigInteger, nullable=False),
    Column("request_id", Text, nullable=False),
    Index("calls_by_time", "at_us"),
    Index("calls_by_principal", "principal", "at_us"),
    Index("calls_by_model", "model", "at_us"),
)

# booked: true if a call in the ledger has the rows.
charges = Table(
    "charges",
    metadata,
    Column("principal", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    Column("forward", BigInteger, nullable=False),
    Column("backward", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
    Column("booked", Boolean, nullable=False),
    Index("charges_by_time", "at_us"),
)

# The last batch of each writer, so that a retried batch is not written twice.
writers = Table(
    "writers",
    metadata,
    Column("writer", Text, primary_key=True),
    Column("batch", BigInteger, nullable=False),
    Column("at_us", BigInteger, nullable=False),
)
