"""The accounts of a server: one for each principal and served name that has been called."""

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
"""Rows of an account that nobody has asked for go back to the store after this long, where other servers may want them."""


class Accounts:
    """Makes accounts as they are asked for.

    Args:
        desk: Where their rows come from.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._charges: dict[tuple[str, str], Charges] = {}

    def of(self, principal: str, model: str) -> Charges:
        """The account of a principal for a served name, with what its request ids have paid for."""
        key = (principal, model)
        charges = self._charges.get(key)
        if charges is None:
            charges = self._charges[key] = Charges(Account(principal, model, self._desk))
        return charges

    def known(self, principal: str, model: str) -> Account | None:
        """An account that has been called; None if it has not. From any thread."""
        charges = self._charges.get((principal, model))
        return None if charges is None else charges.account

    async def return_idle(self) -> None:
        """Gives back what is not used, over and over."""
        while True:
            await asyncio.sleep(_IDLE_S / 2)
            now_s = asyncio.get_running_loop().time()
            for charges in list(self._charges.values()):
                if charges.account.left and now_s - charges.account.asked_s > _IDLE_S:
                    await _told(charges.account, charges.account.settle())

    async def close(self) -> None:
        """Gives back all that is not used."""
        await asyncio.gather(*(_told(charges.account, charges.account.close()) for charges in self._charges.values()))


async def _told(account: Account, giving_back: Coroutine[Any, Any, None]) -> None:
    try:
        await giving_back
    except StoreUnavailable as e:
        log.warning(
            "unused rows could not be given back", extra={"principal": account.principal, "model": account.model, "reason": str(e)}
        )
