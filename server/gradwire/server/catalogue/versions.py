"""Versions of a model's weights on disk: a folder a model, a file a version. A version is there whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gradwire.server.config.models import NAME
from gradwire.server.errors import BadName, UnknownVersion, VersionExists

_MODEL = NAME[:-1] + r"(~\d{1,9})?$"
"""Of a served model, or of a clone."""

_ABANDONED_S = 24 * 3600.0
"""An unfinished version that nothing was written to for so long is nobody's any more."""


@dataclass(frozen=True)
class Version:
    """A kept version: its name, when it was written (seconds since the epoch), and its size."""

    name: str
    created_s: float
    nbytes: int


class VersionStore:
    """The versions of all models of a server.

    Args:
        folder: Made when the first version is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self, model: str) -> list[Version]:
        """The versions of a model, oldest first."""
        folder = self._of(model)
        found = [(path, path.stat()) for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
        return sorted((Version(path.name, stat.st_mtime, stat.st_size) for path, stat in found), key=lambda v: v.created_s)

    def path(self, model: str, version: str) -> Path:
        """The file of a version that is there. Raises BadName, UnknownVersion."""
        path = self._of(model) / _name(version, NAME)
        if not path.is_file():
            there = ", ".join(v.name for v in self.list(model)) or "none"
            raise UnknownVersion(f"{model!r} has no version {version!r}; there are: {there}")
        return path

    def write(self, model: str, version: str, save: Callable[[Path], None], overwrite: bool) -> Version:
        """Keeps a version.

        Args:
            model: Whose.
            version: Its name.
            save: Writes the weights to the path it is given.
            overwrite: Whether to replace a version of that name.

        Raises:
            BadName, VersionExists: Before anything is written.
            OSError: The disk is full, say; nothing is left of the attempt.
        """
        path = self._of(model) / _name(version, NAME)
        if path.exists() and not overwrite:
            raise VersionExists(f"{model!r} has a version {version!r} already; choose another name or say overwrite")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            _saved(save, unfinished)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        stat = path.stat()
        return Version(version, stat.st_mtime, stat.st_size)

    def forget(self, model: str) -> None:
        """Removes all versions of a model that is gone."""
        shutil.rmtree(self._of(model), ignore_errors=True)

    def _of(self, model: str) -> Path:
        return self._folder / _name(model, _MODEL)


def _remove_abandoned(folder: Path) -> None:
    """Removes what processes that were killed have left unfinished. Others that share the folder may be at work on theirs."""
    for path in folder.glob(".*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


def _saved(save: Callable[[Path], None], path: Path) -> None:
    """Saves; a full disk is an OSError, whatever the framework makes of it: of Rust's errors only the text is left."""
    try:
        save(path)
    except OSError:
        raise
    except Exception as e:
        told = re.search(r"\(os error (\d+)\)", str(e))
        number = int(told[1]) if told else 0
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(number, os.strerror(number), str(path)) from e
        raise


def _name(name: str, pattern: str) -> str:
    if not re.fullmatch(pattern, name):
        raise BadName(f"{name!r} is not a name; expected letters, digits, '.', '_' and '-', at most 64, and no path")
    return name
