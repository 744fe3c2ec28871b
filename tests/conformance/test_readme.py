"""The README's table of frameworks and operations is what the served models say of themselves.

``make readme`` writes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from conformance.cases import CASES

from gradwire.client import Server

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- table of operations: written by `make readme` -->", "<!-- end of the table -->"

OPERATIONS = {
    "`predict`": "predict",
    "`loss`": "loss",
    "`loss_gradient`": "loss_gradient",
    "`class_gradient`": "class_gradient",
    "`vjp`, `custom_loss_gradient`": "vjp",
    "`get_activations`": "get_activations",
    "`fit`": "fit",
    "`fit_generator`": "fit_generator",
    "versions": "save",
    "clones": "clone_for_refitting",
}


def table(of_backend: Mapping[str, Iterable[frozenset[str]]]) -> str:
    """Operations down, backends across: what all, some or none of a backend's models can do."""
    lines = [f"| | {' | '.join(of_backend)} |", f"|---|{'---|' * len(of_backend)}"]
    for title, operation in OPERATIONS.items():
        cells = []
        for models in of_backend.values():
            able = [operation in operations for operations in models]
            cells.append("yes" if all(able) else "some" if any(able) else "")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_readmes_table_is_what_the_backends_can_do(server_with: Callable[[str], Server]) -> None:
    of_backend: dict[str, list[frozenset[str]]] = {}
    for name, case in CASES.items():
        of_backend.setdefault(case.config["backend"], []).append(server_with(case.backend).estimator(name).card.operations)
    known = {operation for models in of_backend.values() for operations in models for operation in operations}
    assert known == set(OPERATIONS.values())
    text = README.read_text()
    before, rest = text.split(BEGIN)
    found, after = rest.split(END)
    expected = f"\n{table(of_backend)}\n"
    if os.environ.get("GRADWIRE_WRITE_README"):
        README.write_text(f"{before}{BEGIN}{expected}{END}{after}")
        return
    assert found == expected, f"run `make readme`; the table should be:{expected}"
