"""Store of grants, budgets and the ledger in one SQL database, durable and shared by servers.

Every method is one transaction: its changes are durable when it returns, and none is made when it raises, or, with
``uncertain``, that is unknown. Any thread may call them except the event loop's, because they wait for the database.
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
    """An open store. Close it after use, or use it as a context manager."""

    def __init__(self, database: Database) -> None:
        """Wraps a migrated database; use `open`."""
        self._database = database

    @classmethod
    def open(cls, url: str, *, create: bool = True) -> Store:
        """Connects, and creates or migrates the tables; several servers may do so at the same time.

        Args:
            url: ``sqlite:///FILE`` (relative to the working directory) or ``postgresql+psycopg://USER@HOST/DATABASE``. Keep
                the password in PGPASSWORD or ~/.pgpass, which libpq reads.
            create: Creates a missing database and migrates an old one; without it, both are errors.

        Raises:
            StoreConfigError: The store cannot be used as configured, or is of a newer gradwire.
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
        """URL of the store without secrets, for logs."""
        return shown(self._database.url)

    def close(self) -> None:
        """Closes its connections."""
        self._database.close()

    def __enter__(self) -> Store:
        """Returns the open store."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the store."""
        self.close()

    # Grants

    def grants_generation(self) -> int:
        """Returns a number that every change of grants by any server changes; one small query."""
        with self._database.read() as connection:
            return grants.changes(connection)

    def grants(self) -> StoredGrants:
        """Returns all grants, including revoked ones."""
        with self._database.read() as connection:
            return grants.all_grants(connection)

    def put_grant(self, grant: StoredGrant) -> None:
        """Adds a grant, or replaces the one of the same principal and model; the rows taken from its budget stay taken."""
        now = datetime.now(timezone.utc)
        self._database.write(lambda connection: grants.put(self._database, connection, grant, now))

    def revoke_grant(self, principal: str, model: str) -> None:
        """Revokes the access of a principal to a model, overriding the grants file."""
        self.put_grant(StoredGrant(principal, model, access="labels", activations=False, revoked=True))

    def forget_grant(self, principal: str, model: str) -> bool:
        """Removes a grant or revocation, so that the grants file applies again; True if one existed."""
        return self._database.write(lambda connection: grants.forget(self._database, connection, principal, model))

    # Budgets

    def take(self, principal: str, model: str, least: Rows, wish: Rows, limits: BudgetLimits, now: float) -> Lease:
        """Takes a lease of rows from a budget.

        For each direction, forward and backward, it takes the wished rows, but at most half of those left, and always at least
        the needed rows.

        Args:
            principal: Principal of the budget.
            model: Model of the budget.
            least: Needed rows.
            wish: Wished rows.
            limits: Limits of the budget, which may change between calls.
            now: Seconds since the epoch. In windows, time never goes back, even if a server's clock does.

        Raises:
            BudgetShort: Fewer rows are left than needed; none were taken.
            StoreUnavailable: The database does not work; if ``uncertain``, a lease may have been taken and lost.
        """
        return self._database.write(
            lambda connection: budgets.take(self._database, connection, principal, model, least, wish, limits, now)
        )

    def give_back(self, lease: Lease, rows: Rows) -> None:
        """Returns unused rows of a lease to the total, and to their window if that has not ended.

        Rows of a lease from before a restock are dropped, since the restock already made the budget full.

        Args:
            lease: Lease from `take`.
            rows: Unused rows, in total at most those of the lease.

        Raises:
            StoreUnavailable: If ``uncertain``, the rows may be returned already: do not return them again.
        """
        self._database.write(lambda connection: budgets.give_back(self._database, connection, lease, rows))

    def check(self, principal: str, model: str, least: Rows, limits: BudgetLimits, now: float) -> None:
        """Raises BudgetShort if `take` would now. Takes nothing."""
        with self._database.read() as connection:
            budgets.check(connection, principal, model, least, limits, now)

    def take_for(self, charge: ChargeRecord, limits: BudgetLimits, now: float) -> Lease | None:
        """Takes exactly the rows of a charge, and stores the charge, in one transaction.

        Args:
            charge: Rows to charge under a request id and fingerprint.
            limits: As for `take`.
            now: As for `take`.

        Returns:
            Their lease; None if the charge exists already, and nothing was taken.

        Raises:
            BudgetShort, StoreUnavailable: As for `take`.
        """
        return self._database.write(lambda connection: calls.take_for(self._database, connection, charge, limits, now))

    def give_back_for(self, charge: ChargeRecord, lease: Lease) -> None:
        """Refunds the rows of `take_for`, unless another call has used the same charge since.

        Raises:
            StoreUnavailable: As for `give_back`.
        """
        self._database.write(lambda connection: calls.give_back_for(self._database, connection, charge, lease))

    def restock(self, principal: str, model: str) -> None:
        """Makes a budget full again, including its windows. Servers keep their leases."""
        self._database.write(lambda connection: budgets.restock(self._database, connection, principal, model))

    def taken(self, principal: str, model: str, window_s: int | None, now: float) -> Taken:
        """Returns the rows that servers have taken from a budget, used or still leased."""
        with self._database.read() as connection:
            return budgets.taken(connection, principal, model, window_s, now)

    def taken_of(self, windows: Mapping[tuple[str, str], int | None], now: float) -> dict[tuple[str, str], Taken]:
        """Returns the rows taken from many budgets, in one query.

        Args:
            windows: Length of the windows of each budget, by principal and model.
            now: Seconds since the epoch.
        """
        with self._database.read() as connection:
            return budgets.taken_of(connection, windows, now)

    # The ledger

    def write_calls(self, batch: Sequence[CallRecord], charges: Iterable[ChargeRecord], *, writer: str, number: int) -> bool:
        """Adds a batch of calls to the ledger and to usage, and stores charges; all or nothing, and once.

        Args:
            batch: Calls.
            charges: Charges of the calls under request ids.
            writer: Name of the writer, unique for ever, such as a UUID.
            number: Number of the batch, which increases for each writer. A batch with the same number is not written again.

        Returns:
            True if the batch was not written before.
        """
        now_us = microseconds(datetime.now(timezone.utc))
        return self._database.write(
            lambda connection: calls.write(self._database, connection, batch, charges, writer, number, now_us)
        )

    def usage(self, principal: str | None = None, model: str | None = None) -> list[UsedRows]:
        """Returns used rows by principal and model: the sum of the ledger, including removed calls."""
        with self._database.read() as connection:
            return calls.used(connection, principal, model)

    def charged(self, principal: str, model: str, request_id: str) -> dict[bytes, Rows]:
        """Returns the rows that servers have charged under a request id, by fingerprint."""
        with self._database.read() as connection:
            return calls.charged(connection, principal, model, request_id)

    def prune_charges(self, before: datetime) -> int:
        """Removes charges before a time, whose later retries are charged again. Returns their number."""
        return self._database.write(lambda connection: calls.prune(connection, microseconds(before)))

    def forget_calls(self, before: datetime, most: int = 1000) -> int:
        """Removes calls before a time from the ledger, earliest first; usage and budgets do not change.

        It removes at most ``most`` calls, because other writers wait meanwhile.

        Returns:
            Number of removed calls; 0: none is left, or others are removing them.
        """
        return self._database.write(lambda connection: calls.forget(connection, microseconds(before), most))

    def calls(self, wanted: CallFilter = CallFilter()) -> Iterator[list[CallRecord]]:  # noqa: B008
        """Yields the calls that match a filter, earliest first, in batches, in constant memory.

        Calls that are added meanwhile are not included.
        """
        with self._database.read() as connection:
            yield from calls.batches(connection, wanted)

    def last_calls(self, count: int, wanted: CallFilter = CallFilter()) -> list[CallRecord]:  # noqa: B008
        """Returns the last calls that match a filter, latest first."""
        with self._database.read() as connection:
            return calls.last_calls(connection, wanted, count)

    def count_calls(self, wanted: CallFilter = CallFilter()) -> int:  # noqa: B008
        """Returns the number of calls that match a filter."""
        with self._database.read() as connection:
            return calls.count_calls(connection, wanted)
