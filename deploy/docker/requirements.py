"""Write the requirements of each image from pyproject.toml: one file an image, for a CPU or for CUDA.

They are separate files so that an image's framework is reinstalled when its list changes, and not when gradwire does.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import tomllib

EXTRAS = {
    "torch": ("torch", "postgres"),
    # One image for all three: TensorFlow 2, Keras 3 and graphs of TensorFlow 1 run in one process.
    "tensorflow": ("tensorflow", "keras", "tensorflow-v1", "postgres"),
    "jax": ("jax", "postgres"),
    "sklearn": ("sklearn", "postgres"),
    "gpy": ("gpy", "postgres"),
    "mxnet": ("mxnet", "postgres"),
    "ray": ("ray", "torch", "postgres"),
    "client": ("cli",),
}
"""Extras of each image. Servers keep lasting state in PostgreSQL, or in SQLite, which Python includes."""

OTHERS = {
    "cpu": {"tensorflow": "tensorflow-cpu"},
    "cuda": {"tensorflow": "tensorflow[and-cuda]", "jax": "jax[cuda12]"},
}
"""Replacements of pyproject.toml's packages, by accelerator."""


def requirements(project: dict[str, object], extras: tuple[str, ...], accelerator: str) -> list[str]:
    """Requirements of some extras and of the extras that they include, without gradwire.

    Args:
        project: The table ``project`` of pyproject.toml.
        extras: The extras' names.
        accelerator: ``cpu`` or ``cuda``.

    Returns:
        Lines for pip, sorted, each once.
    """
    dependencies, optional = project["dependencies"], project["optional-dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(optional, dict)
    found: set[str] = set()
    asked, seen = list(extras), set()
    lines = list(dependencies)
    while asked:
        extra = asked.pop()
        if extra not in seen:
            seen.add(extra)
            lines += optional[extra]
            asked += [name for line in optional[extra] for name in _own_extras(line)]
    for line in lines:
        if not line.startswith("gradwire["):
            name = re.match(r"[A-Za-z0-9_.-]+", line)
            assert name, line
            found.add(OTHERS[accelerator].get(name[0], name[0]) + line[name.end() :])
    return sorted(found)


def _own_extras(line: str) -> list[str]:
    match = re.fullmatch(r"gradwire\[([a-z0-9,-]+)\]", line)
    return match[1].split(",") if match else []


def main() -> None:
    """``requirements.py PYPROJECT FOLDER cpu|cuda``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("pyproject", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("accelerator", choices=sorted(OTHERS))
    asked = parser.parse_args()
    project = tomllib.loads(asked.pyproject.read_text())["project"]
    asked.folder.mkdir(parents=True, exist_ok=True)
    for image, extras in EXTRAS.items():
        (asked.folder / f"{image}.txt").write_text("\n".join(requirements(project, extras, asked.accelerator)) + "\n")


if __name__ == "__main__":
    main()
