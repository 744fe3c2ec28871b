"""All grants in force, from the grants file and the store; the store takes precedence.

Every call looks up its grant. An expired or revoked grant counts as none.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from gradwire.server.store.records import StoredGrant
from gradwire.server.trust.grants.grant import Budget, Grant
from gradwire.server.values.access import GRANTED, AccessLevel
from gradwire.server.values.clock import SteadyClock

log = logging.getLogger("gradwire.server")


class WrongGrants(ValueError):
    """Grants are invalid; the text names each and the reason."""


class GrantBook:
    """Grants by principal and served name.

    Args:
        access: Highest access level of each served name.
        clock: Clock for expiries.
        open_to_all: Grants every caller the access of each name; for servers without identity.
        without_classes: Names of regressions.
    """

    def __init__(
        self, access: Mapping[str, AccessLevel], clock: SteadyClock, open_to_all: bool, without_classes: Iterable[str] = ()
    ) -> None:
        self._access = dict(access)
        self._without_classes = frozenset(without_classes)
        self._clock = clock
        self._everyone = [Grant.of_everyone(name, level) for name, level in access.items()] if open_to_all else []
        self._filed: tuple[Grant, ...] = ()
        self._stored: tuple[StoredGrant, ...] = ()
        self._grants: dict[tuple[str, str], Grant] = {}
        # The file and the store are read on different threads.
        self._changing = threading.Lock()
        self._merge()

    def of(self, principal: str, model: str) -> Grant | None:
        """Returns the grant of a principal for a served name; None if there is none in force."""
        grant = self._grants.get((principal, model))
        if grant is None or (grant.expires is not None and grant.expires_s <= self._clock.now_s()):
            return None
        return grant

    def all(self) -> list[Grant]:
        """Returns every grant in force."""
        return [grant for principal, model in list(self._grants) if (grant := self.of(principal, model)) is not None]

    def principals(self) -> list[str]:
        """Returns the principals with a grant in force, sorted."""
        return sorted({grant.principal for grant in self.all()})

    def check(self, grant: Grant) -> None:
        """Raises WrongGrants for a grant of an unknown name, or of more access than the name has."""
        most = self._access.get(grant.model)
        if most is None:
            raise WrongGrants(f"model: {grant.model!r} is not served here; expected one of: {', '.join(self._access)}")
        if not GRANTED[grant.access] <= GRANTED[most] or (grant.access == "scores" and most == "labels"):
            raise WrongGrants(f"access: {grant.access!r} exceeds the access of {grant.model!r}; expected at most {most!r}")
        if grant.access == "labels" and grant.model in self._without_classes:
            raise WrongGrants(
                f"access: 'labels' shows only the top class, and {grant.model!r} is a regression without classes; expected "
                "'scores', 'gradients' or 'trainer'"
            )

    def take_filed(self, grants: Iterable[Grant], source: str) -> None:
        """Replaces the grants of the file.

        Args:
            grants: New grants of the file.
            source: Name of the file in errors.

        Raises:
            WrongGrants: Grants are invalid, and none is replaced; the text lists every problem.
        """
        grants = tuple(grants)
        first: dict[tuple[str, str], int] = {}
        problems = []
        for index, grant in enumerate(grants):
            try:
                self.check(grant)
            except WrongGrants as e:
                problems.append(f"{source}: grants[{index}]: {e}")
            before = first.setdefault((grant.principal, grant.model), index)
            if before != index:
                problems.append(
                    f"{source}: grants[{index}]: principal: {grant.principal!r} already has a grant for {grant.model!r}, "
                    f"grants[{before}]; expected one grant"
                )
        if problems:
            raise WrongGrants("\n".join(problems))
        with self._changing:
            self._filed = grants
            self._merge()

    def take_stored(self, grants: Iterable[StoredGrant]) -> None:
        """Replaces the grants of the store, and ignores those of names that are not served here."""
        with self._changing:
            self._stored = tuple(grants)
            self._merge()

    def _merge(self) -> None:
        merged = {(grant.principal, grant.model): grant for grant in (*self._everyone, *self._filed)}
        for stored in self._stored:
            key = (stored.principal, stored.model)
            merged.pop(key, None)
            if stored.revoked or stored.model not in self._access:
                continue
            try:
                grant = grant_of(stored)
                self.check(grant)
            except ValueError as e:
                # The configuration has become stricter, or a newer server wrote the grant; the store keeps it.
                log.warning(
                    "a grant of the store is not in force here",
                    extra={"principal": stored.principal, "model": stored.model, "reason": str(e)},
                )
                continue
            merged[key] = grant
        self._grants = merged


def read_grants(content: bytes, source: str) -> list[Grant]:
    """Parses a grants file; ``source`` is its name in errors. Raises WrongGrants."""
    try:
        parsed = yaml.safe_load(content)
    except yaml.YAMLError as e:
        raise WrongGrants(f"{source}: is not valid YAML: {e}") from e
    if parsed is None:
        # The file may be about to be written; meanwhile it should not revoke all access.
        raise WrongGrants(f"{source}: is empty; expected a list of grants, or [] for none")
    return parse_grants(parsed, source)


def parse_grants(content: Any, source: str) -> list[Grant]:
    """Checks grants parsed from YAML. Raises WrongGrants, which lists every invalid key."""
    try:
        return TypeAdapter(list[Grant]).validate_python(content)
    except ValidationError as e:
        problems = []
        for problem in e.errors():
            index, *keys = problem["loc"] or ("",)
            where = f"grants[{index}]" if isinstance(index, int) else "grants"
            problems.append(f"{source}: {where}{': ' if keys else ''}{'.'.join(map(str, keys))}: {_explained(problem, keys)}")
        raise WrongGrants("\n".join(problems)) from e


def _explained(problem: Any, keys: list[int | str]) -> str:
    if problem["type"] == "extra_forbidden":
        known = Budget.model_fields if keys[0] == "budget" and len(keys) > 1 else Grant.model_fields
        return f"unknown key; given: {problem['input']!r:.100}; expected one of: {', '.join(known)}"
    if problem["type"] == "missing":
        return "required, without a default; set it"
    if keys == ["principal"]:
        return f"given: {problem['input']!r:.100}; expected 1 to 64 letters, digits, '.', '_', '@' and '-'"
    if keys == ["expires"]:
        return f"given: {problem['input']!s:.100}; expected a time with a time zone, for example 2027-01-31T12:00:00Z"
    return f"{problem['msg'].removeprefix('Value error, ')}; given: {problem['input']!r:.100}"


def grant_of(stored: StoredGrant) -> Grant:
    """Converts a grant of the store to the form of the server."""
    budget = Budget(
        forward=stored.max_forward,
        backward=stored.max_backward,
        window_s=stored.window_s,
        window_forward=stored.window_forward,
        window_backward=stored.window_backward,
        rows_per_s=stored.rows_per_s,
    )
    return Grant(
        principal=stored.principal,
        model=stored.model,
        access=stored.access,
        activations=stored.activations,
        operations=stored.operations,
        decimals=stored.decimals,
        top_k=stored.top_k,
        budget=budget,
        expires=stored.expires_at,
    )


def stored_of(grant: Grant) -> StoredGrant:
    """Converts a grant to the form of the store; the inverse of `grant_of`."""
    budget = grant.budget
    return StoredGrant(
        principal=grant.principal,
        model=grant.model,
        access=grant.access,
        activations=grant.activations,
        operations=grant.operations,
        decimals=grant.decimals,
        top_k=grant.top_k,
        max_forward=budget.forward,
        max_backward=budget.backward,
        window_s=budget.window_s,
        window_forward=budget.window_forward,
        window_backward=budget.window_backward,
        rows_per_s=budget.rows_per_s,
        expires_at=grant.expires,
    )
