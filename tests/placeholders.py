"""Test files are collected without the frameworks that they import: the import is made when the first of a file's tests runs.

While pytest lists tests, a file that imports a framework runs with placeholders in the frameworks' place. They have every
attribute, can be called and derived from, and nothing can be read from them. A file that must read something (a length, a truth,
the items of a loop) gets the real frameworks at once. Before the first of its tests, a file of the first kind runs once more, in
the same namespace and with the real frameworks, and its tests take their functions and parameters from there.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from frameworks import frameworks_of, frameworks_of_file

REAL_AT_ONCE = frozenset({"sklearn", "scipy"})
"""scikit-learn takes a second, and its estimators are parameters of tests, which are named after their classes."""


class NeedsTheFramework(Exception):
    """A file reads from a placeholder."""


class Placeholder:
    """Something of a framework, as far as listing tests needs it."""

    def __init__(self, name: str = "") -> None:
        # pytest names a parameter that is a class or a function after it, and what these return after the argument.
        if name:
            self.__name__ = name

    def __getattr__(self, name: str) -> Placeholder:
        if name.startswith("__"):
            raise AttributeError(name)
        found = Placeholder(name)
        setattr(self, name, found)
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Placeholder:
        return Placeholder()

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()

    def _read(self, *args: Any) -> NoReturn:
        raise NeedsTheFramework

    __bool__ = __len__ = __iter__ = __getitem__ = __contains__ = __index__ = __int__ = __float__ = __array__ = _read
    __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = (
        __rtruediv__
    ) = _read
    __or__ = __ror__ = __and__ = __rand__ = __matmul__ = __rmatmul__ = __neg__ = __pow__ = __enter__ = __exit__ = _read


def is_heavy(module: str) -> bool:
    return bool(frameworks_of(module) - REAL_AT_ONCE)


@contextmanager
def placeholders_for(file: str) -> Iterator[None]:
    """Replace a file's imports of frameworks, and of modules that import them, by placeholders while the context lasts."""
    real = builtins.__import__
    made: dict[str, Placeholder] = {}

    def stand_in(module: str) -> Placeholder:
        names = module.split(".")
        found = made.setdefault(names[0], Placeholder(names[0]))
        for name in names[1:]:
            found = getattr(found, name)
        return found

    def importing(name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] | None = (), level: int = 0) -> Any:
        if level or globals is None or globals.get("__file__") != file:
            return real(name, globals, locals, fromlist, level)
        if is_heavy(name):
            return stand_in(name) if fromlist else stand_in(name.partition(".")[0])
        heavy = [part for part in fromlist or () if is_heavy(f"{name}.{part}")]
        if not heavy:
            return real(name, globals, locals, fromlist, level)
        light = [part for part in fromlist or () if part not in heavy]
        package = real(name, globals, locals, light or ("__name__",), 0)
        parts = {part: getattr(package, part) for part in light}
        return SimpleNamespace(**parts, **{part: stand_in(f"{name}.{part}") for part in heavy})

    builtins.__import__ = importing
    try:
        yield
    finally:
        builtins.__import__ = real


class FrameworkModule(pytest.Module):
    """A test file that imports frameworks."""

    _waits = False
    """For its first test, to run with the real frameworks."""

    def _getobj(self) -> Any:
        try:
            with placeholders_for(str(self.path)):
                module = super()._getobj()
            self._waits = True
            self._made: dict[str, list[pytest.Function]] = {}
            return module
        except NeedsTheFramework:
            for name in [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(self.path)]:
                del sys.modules[name]
            return super()._getobj()

    def _genfunctions(self, name: str, funcobj: Any) -> Iterator[pytest.Function]:
        made = list(super()._genfunctions(name, funcobj))
        if self._waits:
            self._made[name] = made
        return iter(made)

    def import_frameworks(self) -> None:
        """Runs the file with what it imports, if it was not, and gives its tests their functions and parameters."""
        if not self._waits:
            return
        self._waits = False
        self.obj.__spec__.loader.exec_module(self.obj)
        for name, made in self._made.items():
            again = list(super()._genfunctions(name, getattr(self.obj, name)))
            assert len(made) == len(again), f"{self.path}: {name} has other parameters when its frameworks are there"
            for test, real in zip(made, again, strict=True):
                test.obj = real.obj
                if hasattr(test, "callspec"):
                    test.callspec.params.update(real.callspec.params)


def makes_module(module_path: Any, parent: Any) -> pytest.Module | None:
    """Collector of a test file that imports frameworks; None for other files."""
    if frameworks_of_file(module_path) - REAL_AT_ONCE:
        return FrameworkModule.from_parent(parent, path=module_path)
    return None


def make_real(item: pytest.Item) -> None:
    """Gives a test that is about to run the frameworks that its file imports."""
    module = item.getparent(FrameworkModule)
    if module is not None:
        module.import_frameworks()
