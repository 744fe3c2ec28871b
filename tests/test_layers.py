"""Order of the source tree: who may import whom, floor by floor, and four roots in one namespace."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = {
    "v1": ROOT / "proto/gradwire/v1",
    "wire": ROOT / "proto/gradwire/wire",
    "client": ROOT / "client/gradwire/client",
    "server": ROOT / "server/gradwire/server",
    "backends": ROOT / "backends/gradwire/backends",
}
# A root imports itself and these.
ROOTS_BELOW = {
    "v1": set[str](),
    "wire": {"v1"},
    "client": {"wire", "v1"},
    "server": {"backends", "wire", "v1"},
    "backends": set[str](),
}
# From the ground up. A line is a floor, and the rooms on one floor do not import each other. A room is a folder or a file; what is
# in a folder and has no line of its own belongs to the folder, whose files import each other in any order without a circle.
FLOORS = {
    "wire": """
        errors sockets
        dtypes names status
        codecs
        tensors
        frames
        shared
    """,
    "backends": """
        errors example_rows
        backend
        capabilities config jacobians labels layer_names weights_file
        preprocessing registry training
        loss_targets operations
        estimator warm_up
        load ensemble
        torch tensorflow jax mxnet sklearn gpy blackbox
        keras tensorflow_v1
    """,
    "server": """
        errors
        faults system values
        store
        config telemetry
        trust/identity trust/grants
        trust/budgets
        trust scheduling
        catalogue engines transport
        observe
        services
        process
        demo commands
    """,
    "client": """
        cli errors card settings
        arguments codecs usage attack ensemble_card
        attributes transport
        queries fit versions grants
        estimator
        server ensemble check
        torch commands
        art load top
        demo
    """,
}
# A framework is imported in the folder of its backend or of one built on it, and in the client's file of its name.
FRAMEWORK_ROOMS = {
    "torch": ("torch",),
    "safetensors": ("torch", "weights_file"),
    "tensorflow": ("tensorflow", "tensorflow_v1", "keras"),
    "keras": ("keras", "tensorflow"),
    "jax": ("jax",),
    "flax": ("jax",),
    "equinox": ("jax",),
    "optax": ("jax",),
    "mxnet": ("mxnet",),
    "sklearn": ("sklearn",),
    "skops": ("sklearn",),
    "joblib": ("sklearn",),
    "GPy": ("gpy",),
    "paramz": ("gpy",),
    "art": ("art",),
    "ray": ("ray",),
}


@cache
def imports(path: Path) -> frozenset[str]:
    """Full names that a file imports, at its top or later."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def modules(root: str) -> dict[str, Path]:
    """Files of a root by the name of their module, generated code left out."""
    folder = SOURCES[root]
    names = {}
    for file in folder.rglob("*.py"):
        if "_pb2" not in file.name:
            parts = ("gradwire", root, *file.relative_to(folder).with_suffix("").parts)
            names[".".join(parts).removesuffix(".__init__")] = file
    assert names or root == "v1", folder
    return names


def internal(root: str) -> Iterator[tuple[str, str]]:
    """Pairs of modules of one root, of which the first imports the second."""
    known = modules(root)
    for module, file in known.items():
        for name in imports(file):
            while name.startswith(f"gradwire.{root}."):
                if name in known:
                    if name != module:
                        yield module, name
                    break
                name = name.rpartition(".")[0]


def room_of(root: str, module: str) -> str:
    """The room of a module: the longest path among the floors that it lies in."""
    rooms = FLOORS[root].split()
    path = module.split(".")[2:]
    found = ["/".join(path[:depth]) for depth in range(len(path), 0, -1) if "/".join(path[:depth]) in rooms]
    return found[0] if found else "/".join(path)


def test_a_root_imports_only_the_roots_below_it() -> None:
    wrong = []
    for root, folder in SOURCES.items():
        for file in folder.rglob("*.py"):
            for name in imports(file):
                parts = name.split(".")
                if parts[0] == "gradwire" and parts[1] not in {root, *ROOTS_BELOW[root]}:
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_every_room_has_a_floor() -> None:
    homeless = {
        f"{root}: {room}"
        for root in FLOORS
        for module in modules(root)
        if (room := room_of(root, module)) not in FLOORS[root].split() and len(module.split(".")) > 2
    }
    assert not homeless


def test_every_import_goes_down_a_floor() -> None:
    wrong = []
    for root, text in FLOORS.items():
        floors = {room: number for number, line in enumerate(text.strip().splitlines()) for room in line.split()}
        for module, imported in internal(root):
            above, below = room_of(root, module), room_of(root, imported)
            # The package itself hands on names, and stands above all.
            if above and below and above != below and floors[above] <= floors[below]:
                wrong.append(f"{module} imports {imported}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    for root in FLOORS:
        below: dict[str, set[str]] = {module: set() for module in modules(root)}
        packages = {module for module, file in modules(root).items() if file.name == "__init__.py"}
        for module, imported in internal(root):
            if module not in packages and imported not in packages:
                below[module].add(imported)
        while leaves := {module for module, needed in below.items() if not needed}:
            below = {module: needed - leaves for module, needed in below.items() if module not in leaves}
        assert not below, f"circles among: {sorted(below)}"


def test_backends_import_no_grpc() -> None:
    names = {name.partition(".")[0] for file in SOURCES["backends"].rglob("*.py") for name in imports(file)}
    assert not names & {"grpc", "google", "grpc_health", "grpc_reflection"}


def test_frameworks_are_imported_in_rooms_of_their_own() -> None:
    wrong = []
    for root in FLOORS:
        for file in modules(root).values():
            if "demo" in file.parts:
                continue
            rooms = {*file.relative_to(SOURCES[root]).parts, file.stem, file.stem.partition("_")[0]}
            for name in {name.partition(".")[0] for name in imports(file)} & set(FRAMEWORK_ROOMS):
                if not rooms & set(FRAMEWORK_ROOMS[name]) and not (file.stem == "art" and name == "torch"):
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_gradwire_is_a_namespace_with_types_in_every_part() -> None:
    for root, folder in SOURCES.items():
        assert not (folder.parent / "__init__.py").exists(), f"{folder.parent} must not be a regular package"
        assert (folder / "py.typed").exists(), root


def test_all_parts_are_importable_side_by_side() -> None:
    import gradwire.backends.estimator
    import gradwire.client
    import gradwire.server
    import gradwire.v1.estimator_pb2
    import gradwire.wire.frames

    assert len({str(path) for path in gradwire.__path__}) >= 4  # type: ignore[attr-defined]


def test_no_file_is_longer_than_430_lines() -> None:
    long = {
        str(file.relative_to(ROOT)): lines
        for root in FLOORS
        for file in modules(root).values()
        if (lines := len(file.read_text().splitlines())) > 430
    }
    assert not long
