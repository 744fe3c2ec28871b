"""Backends by name: entry points of the group ``gradwire.backends``, ours and those of others alike."""

from __future__ import annotations

from importlib.metadata import entry_points

from gradwire.backends.backend import Backend
from gradwire.backends.errors import ModelConfigError

GROUP = "gradwire.backends"


def backend_names() -> list[str]:
    """The names that a model's ``backend`` key may have here."""
    return sorted(point.name for point in entry_points(group=GROUP))


def backend(name: str) -> Backend:
    """The module of the backend called ``name``.

    Raises:
        ModelConfigError: There is none, or its framework is not installed.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            loaded: Backend = point.load()
            # A package may import its framework when `load` is first looked up.
            _ = loaded.load
        except ModuleNotFoundError as e:
            # Packages are built with hyphens in the names of extras, and pip before 23.3 knows an extra by no other spelling.
            extra = name.replace("_", "-")
            raise ModelConfigError(
                "backend", f"{name!r} needs {e.name}, which is not installed: pip install 'gradwire[{extra}]'"
            ) from e
        return loaded
    raise ModelConfigError("backend", f"{name!r} is not a backend here; there are: {', '.join(backend_names())}")
