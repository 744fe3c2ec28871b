"""Accounts of a server: one for each principal and served name that it has called."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from gradwire.server.errors import StoreUnavailable
from gradwire.server.trust.budgets.account import Account, Desk
from gradwire.server.trust.budgets.charges import Charges

log = logging.getLogger("gradwire.server")

_IDLE_S = 5.0
"""Unused rows return to the store after this long without calls, for other servers."""


class Accounts:
    """Creates accounts on demand.

    Args:
        desk: Access to the store.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._charges: dict[tuple[str, str], Charges] = {}

    def of(self, principal: str, model: str) -> Charges:
        """Returns the charges of a principal for a served name, with their account."""
        key = (principal, model)
        charges = self._charges.get(key)
        if charges is None:
            charges = self._charges[key] = Charges(Account(principal, model, self._desk))
        return charges

    def known(self, principal: str, model: str) -> Account | None:
        """Returns an account if it exists already, else None. From any thread."""
        charges = self._charges.get((principal, model))
        return None if charges is None else charges.account

    async def return_idle(self) -> None:
        """Returns unused rows to the store periodically, until it is cancelled."""
        while True:
            await asyncio.sleep(_IDLE_S / 2)
            now_s = asyncio.get_running_loop().time()
            for charges in list(self._charges.values()):
                if charges.account.left and now_s - charges.account.asked_s > _IDLE_S:
                    await _returned(charges.account, charges.account.settle())

    async def close(self) -> None:
        """Returns all unused rows to the store."""
        await asyncio.gather(*(_returned(charges.account, charges.account.close()) for charges in self._charges.values()))


async def _returned(account: Account, giving_back: Coroutine[Any, Any, None]) -> None:
    try:
        await giving_back
    except StoreUnavailable as e:
        log.warning(
            "unused rows could not be returned to the store",
            extra={"principal": account.principal, "model": account.model, "reason": str(e)},
        )
