"""Needs of a test beside Python: a framework, a process, a database.

They are read off the code that the test and its fixtures run.

Functions and classes of tests/ are followed; of the packages' modules, imports suffice. Names that are made at run time are not
seen: a quick test that starts or imports something nevertheless fails.
"""

from __future__ import annotations

import dis
import functools
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import frameworks
import pytest
from frameworks import FRAMEWORKS, TESTS
from placeholders import Placeholder

FRAMEWORK, PROCESS, DATABASE, QUICK = "framework", "process", "database", "quick"
MARKS = {
    FRAMEWORK: "imports a framework that takes seconds to import",
    PROCESS: "starts a process",
    DATABASE: "starts a database server",
    QUICK: "none of these; `make quick` runs them",
}
STARTERS = frozenset({"subprocess", "multiprocessing", "atheris", "pty"})
"""Modules that start processes, or that only work in one of their own."""
BACKENDS = frozenset({"torch", "tensorflow", "keras", "tensorflow_v1", "jax", "mxnet", "sklearn", "gpy"})
_IN_A_FILE = re.compile(rf"backend: ({'|'.join(BACKENDS)})\\b")
_DOTTED = re.compile(r"\w+(\.\w+)+")
_PATH = re.compile(r"([A-Za-z_][\w.]*):\w+")
DYNAMIC = frozenset({("gradwire.backends.registry", "backend")})
"""Functions that import the framework that they are asked for."""

Needs = frozenset[str]
NOTHING: Needs = frozenset()


def needs_of(item: pytest.Item) -> Needs:
    """Needs of a test."""
    if not isinstance(item, pytest.Function):
        return NOTHING
    found = _needs(item.function)
    for name in item.fixturenames:
        for fixture in item._fixtureinfo.name2fixturedefs.get(name, ())[-1:]:
            found |= _needs(fixture.func)
    if hasattr(item, "callspec"):
        params = list(item.callspec.params.values())
        found |= _of_all(params, 0)
        if any(isinstance(value, str) and value in BACKENDS for value in params):
            found |= {FRAMEWORK}
    return found | {name for name in (FRAMEWORK, PROCESS, DATABASE) if item.get_closest_marker(name)}


def mark(item: pytest.Item) -> None:
    found = needs_of(item)
    for name in found or {QUICK}:
        item.add_marker(getattr(pytest.mark, name))


def _needs(thing: Any) -> Needs:
    """Needs of a function or a class of the tests, with all that it calls."""
    seen: dict[int, Any] = {}
    found: set[str] = set()
    waiting = [thing]
    while waiting:
        function = inspect.unwrap(waiting.pop(), stop=lambda f: not hasattr(f, "__wrapped__"))
        if id(function) in seen:
            continue
        seen[id(function)] = function
        needs, called = _direct(function)
        found |= needs
        waiting += called
    return frozenset(found)


def _direct(thing: Any) -> tuple[Needs, list[Any]]:
    """Needs of a function or class alone, and the functions and classes that it uses."""
    if id(thing) not in _direct_known:
        _direct_known[id(thing)] = thing, _look(thing)
    return _direct_known[id(thing)][1]


_direct_known: dict[int, tuple[Any, tuple[Needs, list[Any]]]] = {}


def _look(thing: Any) -> tuple[Needs, list[Any]]:
    if isinstance(thing, MethodType):
        thing = thing.__func__
    if isinstance(thing, functools.partial):
        return _of_all([*thing.args, *thing.keywords.values()], 0), [thing.func]
    if isinstance(thing, type):
        members = [getattr(member, "__func__", getattr(member, "fget", member)) for member in vars(thing).values()]
        return NOTHING, [*thing.__bases__, *(m for m in members if isinstance(m, FunctionType))] if _is_ours(thing) else []
    if not isinstance(thing, FunctionType) or not _is_ours(thing):
        return _of(thing, 0), []
    found: set[str] = set()
    called: list[Any] = []
    # Of a test of hypothesis, what it wraps.
    inner = getattr(getattr(thing, "hypothesis", None), "inner_test", None)
    if inner is not None:
        called.append(inner)
    names, imported, constants = set[str](), set[str](), set[Any]()
    for code in _codes(thing.__code__):
        names |= {*code.co_names, *code.co_freevars}
        imported |= set(_imports(code))
        constants |= {const for const in _flat(code.co_consts) if isinstance(const, str)}
    if ("backend" in constants and constants & BACKENDS) or any(_names_a_framework(constant) for constant in constants):
        found.add(FRAMEWORK)
    for module in imported:
        if is_slow(module):
            found.add(FRAMEWORK)
        if module.partition(".")[0] in STARTERS or _starts_processes(module):
            found.add(PROCESS)
    known = {**_closed_over(thing), **thing.__globals__}
    values = [known[name] for name in names if name in known]
    # Of a module of the tests, what may be used of it.
    values += [
        vars(value)[name]
        for value in values
        if isinstance(value, ModuleType) and _is_ours(value)
        for name in names & vars(value).keys()
    ]
    for value in values:
        found |= _of(value, 0)
        if isinstance(value, (FunctionType, type, functools.partial)) or hasattr(value, "__wrapped__"):
            called.append(value)
    return frozenset(found), called


def _of(value: Any, depth: int) -> Needs:
    """Needs of a value: a placeholder, a module, a model's configuration."""
    if isinstance(value, Placeholder):
        return frozenset({FRAMEWORK})
    if isinstance(value, ModuleType):
        if value.__name__.partition(".")[0] in STARTERS:
            return frozenset({PROCESS})
        return frozenset({FRAMEWORK}) if is_slow(value.__name__) else NOTHING
    if isinstance(value, dict):
        backend = value.get("backend")
        own = frozenset({FRAMEWORK}) if isinstance(backend, str) and backend in BACKENDS else NOTHING
        return own | _of_all(value.values(), depth)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _of_all(value, depth)
    if is_dataclass(value) and not isinstance(value, type):
        return _of_all(vars(value).values(), depth) if hasattr(value, "__dict__") else NOTHING
    module = getattr(value, "__module__", None)
    if isinstance(module, str) and not isinstance(value, type(pytest.mark)):
        if module.partition(".")[0] in FRAMEWORKS or (module, getattr(value, "__name__", "")) in DYNAMIC:
            return frozenset({FRAMEWORK})
        if module.partition(".")[0] in STARTERS or (module.startswith("gradwire.") and _starts_processes(module)):
            return frozenset({PROCESS})
    return NOTHING


def _names_a_framework(text: str) -> bool:
    """In a configuration: a backend, or the path of a factory in a module that imports a framework."""
    path = _PATH.fullmatch(text)
    if _DOTTED.fullmatch(text) and is_slow(text.partition(".")[0]):
        return True
    return bool(_IN_A_FILE.search(text)) or (path is not None and is_slow(path[1]))


def is_slow(module: str) -> bool:
    return bool(frameworks.frameworks_of(module) - frameworks.QUICK)


@functools.cache
def _starts_processes(module: str) -> bool:
    """A module that imports what starts processes, or that imports such a module from beside it."""
    beside = module.rpartition(".")[0] + "."
    around = [name for name in _imported_by(module) if beside != "." and name.startswith(beside)]
    return any(STARTERS & _imported_by(name) for name in (module, *around))


def _imported_by(module: str) -> frozenset[str]:
    source = frameworks.source_of(module)
    return frozenset(frameworks.imported_modules(source.read_text())) if source is not None else frozenset()


def _of_all(values: Iterable[Any], depth: int) -> Needs:
    if depth > 4:
        return NOTHING
    return frozenset().union(*(_of(value, depth + 1) for value in values))


def _is_ours(thing: Any) -> bool:
    module = thing if isinstance(thing, ModuleType) else sys.modules.get(getattr(thing, "__module__", "") or "")
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(TESTS)


def _closed_over(function: FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


def _imports(code: CodeType) -> Iterator[str]:
    """The modules that a function imports when it runs."""
    module = ""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            module = str(instruction.argval)
            yield module
        elif instruction.opname == "IMPORT_FROM":
            yield f"{module}.{instruction.argval}"


def _flat(consts: Iterable[Any]) -> Iterator[Any]:
    for const in consts:
        if isinstance(const, tuple):
            yield from _flat(const)
        else:
            yield const
