"""Find the frameworks that a module imports, without importing it.

Modules of tests and of the packages are followed through their own imports, those that are at the left margin: what a function
imports for itself is imported when it is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
ROOTS = (TESTS, *(REPOSITORY / part for part in ("proto", "client", "server", "backends")), REPOSITORY)

FRAMEWORKS = frozenset(
    {
        *("torch", "tensorflow", "keras", "jax", "flax", "equinox", "optax", "mxnet", "GPy", "art"),
        *("sklearn", "skops", "scipy", "ray", "pyarrow", "matplotlib", "alembic"),
    }
)
"""Packages that take from a tenth of a second (pyarrow) to six (TensorFlow) to import."""

QUICK = frozenset({"pyarrow", "matplotlib", "alembic"})
"""Those of them that a quick test may import."""

_IMPORT = re.compile(
    r"^(?:import (?P<modules>[^\n#]+)|from (?P<package>[\w.]+) import (?:\((?P<several>[^)]*)\)|(?P<names>[^\n#]+)))", re.M
)


def frameworks_of(module: str) -> frozenset[str]:
    """The frameworks that importing a module, by its dotted name, imports."""
    top = module.partition(".")[0]
    if top in FRAMEWORKS:
        return frozenset({top})
    if module not in _known:
        _known[module] = _reached(_imported_with(module))
    return _known[module]


@cache
def frameworks_of_file(path: Path) -> frozenset[str]:
    """The frameworks that the imports of a file import."""
    return _reached(_imports_of(path))


def _reached(modules: Iterable[str]) -> frozenset[str]:
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        top = module.partition(".")[0]
        if top in FRAMEWORKS:
            found.add(top)
        elif module in _known:
            found |= _known[module]
        else:
            waiting += _imported_with(module) - seen
    return frozenset(found)


_known: dict[str, frozenset[str]] = {"safetensors.torch": frozenset({"torch"})}
"""Frameworks reached by modules that were looked up before."""


@cache
def _imported_with(module: str) -> frozenset[str]:
    """Imports of a module, and the packages that contain it."""
    names = module.split(".")
    if not _is_ours(names[0]):
        return frozenset()
    path = source_of(module)
    return frozenset([".".join(names[:length]) for length in range(1, len(names))]) | (_imports_of(path) if path else frozenset())


@cache
def _is_ours(top: str) -> bool:
    return any((root / top).is_dir() or (root / f"{top}.py").is_file() for root in ROOTS)


@cache
def source_of(module: str) -> Path | None:
    """Path of a module of the repository."""
    names = module.split(".")
    for root in ROOTS:
        for path in (root.joinpath(*names[:-1], f"{names[-1]}.py"), root.joinpath(*names, "__init__.py")):
            if path.is_file():
                return path
    return None


@cache
def _imports_of(path: Path) -> frozenset[str]:
    return frozenset(imported_modules(path.read_text()))


def imported_modules(source: str) -> list[str]:
    """The dotted names that the statements at the left margin import; of ``from a import b`` both ``a`` and ``a.b``."""
    found = []
    for statement in _IMPORT.finditer(source):
        if statement["modules"]:
            found += [part.split(" as ")[0].strip() for part in statement["modules"].split(",")]
        else:
            names = (statement["several"] or statement["names"]).split(",")
            package = statement["package"]
            found.append(package)
            found += [
                f"{package}.{name.split(' as ')[0].strip()}" for name in names if name.strip() and not name.strip().startswith("#")
            ]
    return found
