"""``gradwire models``: a table of the models that a server offers.

Exit codes: 0, listed; 2, a wrong argument, name or permission; 3, no server answers.
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradwire.client.card import ModelCard
from gradwire.client.commands.options import Address, Certificate, Key, Timeout, Tls, Token, TokenFile, connected
from gradwire.wire.names import OPERATIONS


def models(
    address: Address,
    token: Token = None,
    token_file: TokenFile = None,
    tls: Tls = None,
    certificate: Certificate = None,
    key: Key = None,
    timeout_s: Timeout = 60.0,
) -> None:
    """List the models that you may use on a server.

    Example: gradwire models 127.0.0.1:50051
    """
    with connected(address, token, token_file, tls, certificate, key, timeout_s) as server:
        cards = server.models()
    table = Table(title=f"{len(cards)} models at {escape(address)}", title_justify="left", title_style="bold")
    for heading in ("name", "backend", "input", "classes", "access", "operations", "version", "device"):
        table.add_column(heading, overflow="fold", ratio=2 if heading == "operations" else None)
    for card in cards:
        table.add_row(*(escape(cell) for cell in cells(card)))
    Console().print(table)


def cells(card: ModelCard) -> tuple[str, ...]:
    """Formats a card as the cells of a table's row."""
    operations = [name for name in OPERATIONS if name in card.operations]
    shape = "x".join("any" if size == -1 else str(size) for size in card.input_shape)
    row = f"{shape} {card.input_dtype}"
    return (card.name, card.backend, row, str(card.nb_classes), card.access, ", ".join(operations), card.version, card.device)
