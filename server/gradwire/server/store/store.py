"""What must outlive a server, and hold across several: grants, budgets, the ledger. One SQL database.

Every method is one transaction: when it returns, what it says is durable; when it raises, nothing has happened, or, with
``uncertain``, it is not known. All may be called from any thread, and all wait for the database, so none from the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from types import TracebackType

from gradwire.server.store import budgets, calls, grants
from gradwire.server.store.database import Database
from gradwire.server.store.migrate import migrate
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
    microseconds,
)
from gradwire.server.store.translation import shown
from gradwire.server.values.rows import Rows


class Store:
    """An open store. Close it when it is not needed any more, or use it as a context manager."""

    def __init__(self, database: Database) -> None:
        """From a database that has been migrated; see `open`."""
        self._database = database

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Store:
        """Connects, and makes or migrates the tables; several servers may do so at the same time.

        Args:
            url: ``sqlite:///FILE`` (relative to the working directory) or ``postgresql+psycopg://USER@HOST/DATABASE``. A
                password is better kept in PGPASSWORD or ~/.pgpass, which libpq reads.
            create: Whether what is not there is made, and what is old migrated; else that is an error.

        Raises:
            StoreConfigError: The store cannot be used as it is configured, or is of a newer gradwire.
            StoreUnavailable: The database does not work now.
        """
        database = Database(url, create=create)
        try:
            migrate(database, create=create)
        except BaseException:
            database.close()
            raise
        return cls(database)

    @property
    def shown(self) -> str:
        """The store's URL without what is secret in it, for logs."""
        return shown(self._database.url)

    def close(self) -> None:
        """Ends its connections."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # Grants

    def grants_generation(self) -> int:
        """A number that changes with every change of the grants, by whatever server; one small query."""
        with self._database.read() as connection:
            return grants.changes(connection)

    def grants(self) -> StoredGrants:
        """All grants, the revoked too."""
        with self._database.read() as connection:
            return grants.all_grants(connection)

    def put_grant(self, grant: StoredGrant) -> None:
        """Adds a grant, or replaces that of the same principal and model; what has been taken of its budget stays taken."""
        now = datetime.now(timezone.utc)
        self._database.write(lambda connection: grants.put(self._database, connection, grant, now))

    def revoke_grant(self, principal: str, model: str) -> None:
        """Marks that a principal may do nothing with a model, whatever a file says."""
        self.put_grant(StoredGrant(principal, model, access="labels", activations=False, revoked=True))

    def forget_grant(self, principal: str, model: str) -> bool:
        """Removes a grant or the mark that it is revoked: what a file says holds again. Returns whether there was one."""
        return self._database.write(lambda connection: grants.forget(self._database, connection, principal, model))

    # Budgets

    def take(self, principal: str, model: str, least: Rows, wish: Rows, limits: BudgetLimits, now: float) -> Lease:
        """Takes rows of a budget, which nobody else can take then.

        Of each direction, forward and backward, what is wished for is taken, but at most half of what is left; and in any case
        as much as is needed.

        Args:
            principal: Whose budget it is.
            model: For which model.
            least: What is needed.
            wish: What would be useful.
            limits: How large the budget is; it may change from one time to the next.
            now: Seconds since the epoch. In windows, time never goes back, whatever a server's clock says.

        Raises:
            BudgetShort: There is less than what is needed; nothing was taken.
            StoreUnavailable: The database does not work; where ``uncertain``, a lease may have been taken and lost.
        """
        return self._database.write(
            lambda connection: budgets.take(self._database, connection, principal, model, least, wish, limits, now)
        )

    def give_back(self, lease: Lease, rows: Rows) -> None:
        """Returns rows of a lease that were not used: to the total, and to the window they are from if that is not over.

        Of a lease from before the budget was restocked nothing comes back, since the budget was made full without it.

        Args:
            lease: What `take` returned.
            rows: At most the lease's; over several times, at most in all.

        Raises:
            StoreUnavailable: Where ``uncertain``, they may be back: do not give them back again.
        """
        self._database.write(lambda connection: budgets.give_back(self._database, connection, lease, rows))

    def check(self, principal: str, model: str, least: Rows, limits: BudgetLimits, now: float) -> None:
        """Raises BudgetShort where `take` would now. Takes nothing."""
        with self._database.read() as connection:
            budgets.check(connection, principal, model, least, limits, now)

    def take_for(self, charge: ChargeRecord, limits: BudgetLimits, now: float) -> Lease | None:
        """Takes just the rows of a charge, and keeps it, in one transaction.

        Args:
            charge: What is to be charged under a request id, and for what.
            limits: As for `take`.
            now: As for `take`.

        Returns:
            The rows; None if the same charge is there already, and nothing was taken.

        Raises:
            BudgetShort, StoreUnavailable: As for `take`.
        """
        return self._database.write(lambda connection: calls.take_for(self._database, connection, charge, limits, now))

    def give_back_for(self, charge: ChargeRecord, lease: Lease) -> None:
        """Undoes `take_for`, unless it was called for the same charge again since: then somebody else answers for it.

        Raises:
            StoreUnavailable: As for `give_back`.
        """
        self._database.write(lambda connection: calls.give_back_for(self._database, connection, charge, lease))

    def restock(self, principal: str, model: str) -> None:
        """Makes a budget full again, its windows too. Leases that servers hold stay theirs."""
        self._database.write(lambda connection: budgets.restock(self._database, connection, principal, model))

    def taken(self, principal: str, model: str, window_s: int | None, now: float) -> Taken:
        """What servers have taken of a budget: used, or still held in leases."""
        with self._database.read() as connection:
            return budgets.taken(connection, principal, model, window_s, now)

    def taken_of(self, windows: Mapping[tuple[str, str], int | None], now: float) -> dict[tuple[str, str], Taken]:
        """The same of many budgets, in one query: by principal and model, the length of each one's windows."""
        with self._database.read() as connection:
            return budgets.taken_of(connection, windows, now)

    # The ledger

    def write_calls(self, batch: Sequence[CallRecord], charges: Iterable[ChargeRecord], *, writer: str, number: int) -> bool:
        """Adds calls to the ledger and to what it sums up to, and keeps what was charged. All or nothing, and once.

        Args:
            batch: Calls.
            charges: What is charged under request ids now.
            writer: A name that is nobody else's, now or later, a UUID.
            number: Greater with every batch of a writer. The same number again is the same batch, and is not written again.

        Returns:
            Whether the batch was not there yet.
        """
        now_us = microseconds(datetime.now(timezone.utc))
        return self._database.write(
            lambda connection: calls.write(self._database, connection, batch, charges, writer, number, now_us)
        )

    def usage(self, principal: str | None = None, model: str | None = None) -> list[UsedRows]:
        """What was used, by principal and model: always the sum of the ledger, with what was forgotten of it."""
        with self._database.read() as connection:
            return calls.used(connection, principal, model)

    def charged(self, principal: str, model: str, request_id: str) -> dict[bytes, Rows]:
        """What any server has charged under a request id, by what was asked."""
        with self._database.read() as connection:
            return calls.charged(connection, principal, model, request_id)

    def prune_charges(self, before: datetime) -> int:
        """Forgets what was charged before a moment; a retry that comes later is charged anew. Returns how many."""
        return self._database.write(lambda connection: calls.prune(connection, microseconds(before)))

    def forget_calls(self, before: datetime, most: int = 1000) -> int:
        """Removes calls that began before a moment from the ledger, the earliest first; usage and budgets stay as they are.

        Few at a time, because others wait for a transaction that writes.

        Returns:
            How many were removed; none: there are no more, or others are removing them.
        """
        return self._database.write(lambda connection: calls.forget(connection, microseconds(before), most))

    def calls(self, wanted: CallFilter = CallFilter()) -> Iterator[list[CallRecord]]:  # noqa: B008
        """The calls that a filter leaves, the earliest first, in batches as they are read.

        A ledger of any length takes the same memory. Calls that are added meanwhile are not among them.
        """
        with self._database.read() as connection:
            yield from calls.batches(connection, wanted)

    def last_calls(self, count: int, wanted: CallFilter = CallFilter()) -> list[CallRecord]:  # noqa: B008
        """The last calls that a filter leaves, the latest first."""
        with self._database.read() as connection:
            return calls.last_calls(connection, wanted, count)

    def count_calls(self, wanted: CallFilter = CallFilter()) -> int:  # noqa: B008
        """How many calls a filter leaves."""
        with self._database.read() as connection:
            return calls.count_calls(connection, wanted)
