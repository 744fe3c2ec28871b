"""``gradwire grant``, ``revoke``, ``grants`` and ``usage``: administration of grants, and usage of models."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradwire.client.commands.options import Address, Certificate, Key, Timeout, Tls, Token, TokenFile, connected
from gradwire.client.errors import InvalidCall
from gradwire.client.grants import Access, Budget, Grant
from gradwire.client.usage import Usage

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def grant(
    address: Address,
    principal: Annotated[str, typer.Argument(help="The name of a token or a certificate.", show_default=False)],
    model: Annotated[str, typer.Argument(help="A served name.", show_default=False)],
    access: Annotated[str, typer.Option(help=f"{', '.join(get_args(Access))}: each includes the previous ones.")],
    activations: Annotated[bool, typer.Option(help="With gradients or trainer: grant activations too.")] = False,
    operation: Annotated[list[str] | None, typer.Option(help="Grant only this operation; repeatable.")] = None,
    decimals: Annotated[int | None, typer.Option(help="With scores: round outputs to this many decimals.")] = None,
    top_k: Annotated[int | None, typer.Option(help="With scores: show only this many outputs of each row.")] = None,
    forward: Annotated[int | None, typer.Option(help="Most forward rows in total.")] = None,
    backward: Annotated[int | None, typer.Option(help="Most backward rows in total.")] = None,
    window: Annotated[str | None, typer.Option(help="Length of a window for the next two limits: 60s, 1h, 1d.")] = None,
    window_forward: Annotated[int | None, typer.Option(help="Most forward rows per window.")] = None,
    window_backward: Annotated[int | None, typer.Option(help="Most backward rows per window.")] = None,
    rows_per_s: Annotated[float | None, typer.Option("--rows-per-s", help="Most rows per second.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="When the grant ends: after 12h or 30d, or at 2027-01-31.", show_default="never")
    ] = None,
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Timeout = 60.0,
) -> None:
    """Grant a principal access to a model, replacing its previous grant. For admins of the server.

    Example: gradwire grant gpu-node:50051 alice digits --access scores --forward 10000 --expires 30d
    """
    with connected(address, token, token_file, tls, certificate, key, timeout_s) as server:
        budget = Budget(
            forward=forward,
            backward=backward,
            window_s=None if window is None else _whole_seconds("--window", window),
            window_forward=window_forward,
            window_backward=window_backward,
            rows_per_s=rows_per_s,
        )
        given = server.grants.put(
            Grant(
                principal=principal,
                model=model,
                access=cast(Access, access),
                activations=activations,
                operations=tuple(operation or ()),
                decimals=decimals,
                top_k=top_k,
                budget=budget,
                expires=None if expires is None else _moment(expires),
            )
        )
    Console().print(_grants([given]))


def revoke(
    address: Address,
    principal: Annotated[str, typer.Argument(help="The principal that loses access.", show_default=False)],
    model: Annotated[str, typer.Argument(help="The served name.", show_default=False)],
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Timeout = 60.0,
) -> None:
    """Revoke a principal's access to a model, from whichever source it was granted. For admins of the server.

    Example: gradwire revoke gpu-node:50051 alice digits
    """
    with connected(address, token, token_file, tls, certificate, key, timeout_s) as server:
        server.grants.revoke(principal, model)
    Console().print(f"{escape(principal)} no longer has access to {escape(model)}", highlight=False)


def grants(
    address: Address,
    principal: Annotated[str, typer.Option(help="List one principal's grants.", show_default="all")] = "",
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Timeout = 60.0,
) -> None:
    """List the grants of a server. For its admins.

    Example: gradwire grants gpu-node:50051
    """
    with connected(address, token, token_file, tls, certificate, key, timeout_s) as server:
        found = server.grants.list(principal)
    Console().print(_grants(found))


def usage(
    address: Address,
    model: Annotated[str, typer.Argument(help="Show one served name.", show_default="all")] = "",
    principal: Annotated[str, typer.Option(help="Show another principal's usage; for admins.", show_default="you")] = "",
    everybody: Annotated[bool, typer.Option("--all", help="Show all principals' usage; for admins.")] = False,
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Timeout = 60.0,
) -> None:
    """Show the rows that you have used, and the rows left.

    Example: gradwire usage gpu-node:50051
    """
    with connected(address, token, token_file, tls, certificate, key, timeout_s) as server:
        found = server.usage(model, principal, everybody)
    Console().print(_usage(found))


def _usage(found: list[Usage]) -> Table:
    table = _table("principal", "model", "access", "forward", "left", "backward", "left", "refills", "expires")
    for one in found:
        table.add_row(
            escape(one.principal),
            escape(one.model),
            one.access,
            f"{one.forward:,}",
            _left(one.left_forward),
            f"{one.backward:,}",
            _left(one.left_backward),
            _time(one.refills),
            _time(one.expires),
        )
    return table


def _grants(found: list[Grant]) -> Table:
    table = _table("principal", "model", "access", "forward", "backward", "in each window", "rows/s", "expires")
    for one in found:
        budget = one.budget
        access = [one.access, *(["activations"] if one.activations else []), *one.operations]
        access += [f"{one.decimals} decimals"] if one.decimals is not None else []
        access += [f"top {one.top_k}"] if one.top_k is not None else []
        window = ""
        if budget.window_s is not None:
            both = f"{_limit(budget.window_forward)} forward, {_limit(budget.window_backward)} backward"
            window = f"{both} in {timedelta(seconds=budget.window_s)}"
        table.add_row(
            escape(one.principal),
            escape(one.model),
            ", ".join(access),
            _limit(budget.forward),
            _limit(budget.backward),
            window,
            "" if budget.rows_per_s is None else f"{budget.rows_per_s:g}",
            _time(one.expires),
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(show_edge=False, pad_edge=False, box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        numbers = heading in ("forward", "backward", "left", "rows/s")
        table.add_column(heading, header_style="dim", justify="right" if numbers else "left", overflow="fold")
    return table


def _limit(rows: int | None) -> str:
    return "any" if rows is None else f"{rows:,}"


def _left(rows: int | None) -> str:
    return "[dim]any[/]" if rows is None else f"[red]{rows}[/]" if rows == 0 else f"{rows:,}"


def _time(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M}"


def _duration(option: str, text: str) -> timedelta:
    """Parses a duration such as "12h". Raises InvalidCall."""
    try:
        duration = timedelta(**{_UNITS[text[-1:]]: float(text[:-1])})
    except (KeyError, ValueError, OverflowError):
        duration = timedelta(0)
    if duration <= timedelta(0):
        raise InvalidCall(f"{option} is {text!r}; expected a number and one of {', '.join(_UNITS)}, for example 12h")
    return duration


def _whole_seconds(option: str, text: str) -> int:
    duration = _duration(option, text)
    if duration % timedelta(seconds=1):
        raise InvalidCall(f"{option} is {text!r}; expected a whole number of seconds")
    return int(duration.total_seconds())


def _moment(text: str) -> datetime:
    """Parses a date, or a duration from now such as "30d". Raises InvalidCall."""
    try:
        if re.fullmatch(r"[\d.]+[a-z]", text):
            return datetime.now(timezone.utc) + _duration("--expires", text)
        # Python 3.10 does not parse Z.
        moment = datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1:] in ("Z", "z") else text)
    except InvalidCall:
        raise
    except (ValueError, OverflowError):
        raise InvalidCall(
            f"--expires is {text!r}; expected 12h, 30d, or a date such as 2027-01-31 or 2027-01-31T12:00+01:00"
        ) from None
    return moment if moment.tzinfo is not None else moment.astimezone()
