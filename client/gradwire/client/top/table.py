"""Table of a server's activity, for terminals."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gradwire.client.top.activity import Activity, Device, Model, Operation

_HEADINGS = (
    ("model", "left"),
    ("version", "left"),
    ("device", "left"),
    ("waiting", "right"),
    ("operation", "left"),
    ("calls/s", "right"),
    ("rows/s", "right"),
    ("p50 ms", "right"),
    ("p99 ms", "right"),
    ("rows at once", "right"),
    ("failed", "left"),
)
_GREY = "[dim]-[/]"


def shown(activity: Activity) -> RenderableType:
    """Formats an activity as a few lines about the server and a table of its models."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading, side in _HEADINGS:
        table.add_column(heading, header_style="dim", justify="right" if side == "right" else "left", overflow="fold")
    for model in activity.models:
        for index, operation in enumerate(model.operations or [None]):
            table.add_row(*(_about(model) if not index else ("",) * 4), *_did(operation, activity.period_s))
    return Group(*_lines(activity), "", table)


def _lines(activity: Activity) -> list[Text]:
    period_s = max(activity.period_s, 1e-9)
    received, sent = (_bytes(nbytes / period_s) for nbytes in (activity.received_nbytes, activity.sent_nbytes))
    lost = f", [bold red]{activity.ledger_lost_calls:,} lost[/]" if activity.ledger_lost_calls else ""
    lines = [
        f"[bold]{escape(activity.server)}[/]  gradwire {escape(activity.version)}  up {_duration(activity.up_s)}  "
        f"[dim]in the last {activity.period_s:.1f} s[/]",
        *([f"[bold]{escape(activity.process)}[/], one of several at the address"] if activity.process else []),
        f"{activity.running_calls:,} calls, {activity.open_streams:,} streams, {received}/s in, {sent}/s out; "
        f"ledger: {activity.ledger_pending_calls:,} pending{lost}",
        *(_of_device(device) for device in activity.devices),
    ]
    if activity.refusing:
        lines.append(f"[bold red]accepts no calls:[/] {escape(activity.refusing)}")
    return [Text.from_markup(line) for line in lines]


def _of_device(device: Device) -> str:
    memory = device.memory_nbytes
    parts = [f"{_bytes(memory[kind])}{f' {kind}'}" for kind in memory]
    if device.utilization is not None:
        parts.append(f"busy {device.utilization:.0%}")
    return f"{escape(device.device)}: {', '.join(parts)}{f'  [dim]{escape(device.uuid)}[/]' if device.uuid else ''}"


def _about(model: Model) -> tuple[str, ...]:
    return escape(model.name), escape(model.version), escape(model.device), f"{model.waiting:,}"


def _did(operation: Operation | None, period_s: float) -> tuple[str, ...]:
    if operation is None:
        return ("[dim]not called yet[/]", *("",) * 6)
    per_s = 1 / max(period_s, 1e-9)
    return (
        escape(operation.operation),
        _rate(operation.calls * per_s),
        _rate((operation.forward + operation.backward) * per_s),
        _ms(operation.p50_s),
        _ms(operation.p99_s),
        _GREY if operation.batch_rows is None else f"{operation.batch_rows:.1f}",
        ", ".join(f"[red]{number:,} {escape(reason)}[/]" for reason, number in operation.failed.items()),
    )


def _rate(per_s: float) -> str:
    return _GREY if not per_s else f"{per_s:,.2f}" if per_s < 10 else f"{per_s:,.0f}"


def _ms(seconds: float | None) -> str:
    return _GREY if seconds is None else f"{seconds * 1e3:.2f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"


def _bytes(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
