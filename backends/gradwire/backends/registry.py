"""Backends by name: entry points of the group ``gradwire.backends``, from gradwire and other packages."""

from __future__ import annotations

from importlib.metadata import entry_points

from gradwire.backends.backend import Backend
from gradwire.backends.errors import ModelConfigError

GROUP = "gradwire.backends"


def backend_names() -> list[str]:
    """Names of the installed backends."""
    return sorted(point.name for point in entry_points(group=GROUP))


def backend(name: str) -> Backend:
    """Imports the module of the backend called ``name``.

    Raises:
        ModelConfigError: No such backend exists, or its framework is not installed.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            loaded: Backend = point.load()
            # A package may delay the import of its framework until the first access to `load`.
            _ = loaded.load
        except ModuleNotFoundError as e:
            # Builds write hyphens in the names of extras, and pip before 23.3 accepts no other spelling.
            extra = name.replace("_", "-")
            raise ModelConfigError(
                "backend", f"{name!r} needs {e.name}, which is not installed: pip install 'gradwire[{extra}]'"
            ) from e
        return loaded
    raise ModelConfigError("backend", f"{name!r} is not an installed backend; installed are: {', '.join(backend_names())}")
