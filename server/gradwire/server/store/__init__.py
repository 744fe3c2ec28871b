"""Grants, budgets and the ledger in one SQL database: SQLite by default, PostgreSQL shared by servers.

Imported only where a store is opened: SQLAlchemy takes 0.2 s.
"""

from gradwire.server.errors import BudgetShort, StoreConfigError, StoreUnavailable
from gradwire.server.store.records import (
    BudgetLimits,
    CallFilter,
    CallRecord,
    ChargeRecord,
    Lease,
    StoredGrant,
    StoredGrants,
    Taken,
    UsedRows,
)
from gradwire.server.store.store import Store
from gradwire.server.store.writer import CallWriter

__all__ = [
    "BudgetLimits",
    "BudgetShort",
    "CallFilter",
    "CallRecord",
    "CallWriter",
    "ChargeRecord",
    "Lease",
    "Store",
    "StoreConfigError",
    "StoreUnavailable",
    "StoredGrant",
    "StoredGrants",
    "Taken",
    "UsedRows",
]
