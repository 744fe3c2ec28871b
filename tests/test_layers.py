"""Who may import whom, and that the four roots are one namespace."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = {
    "v1": ROOT / "proto/gradwire/v1",
    "wire": ROOT / "proto/gradwire/wire",
    "client": ROOT / "client/gradwire/client",
    "server": ROOT / "server/gradwire/server",
    "backends": ROOT / "backends/gradwire/backends",
}
ALLOWED = {
    "v1": {"v1"},
    "wire": {"wire", "v1"},
    "client": {"client", "wire", "v1"},
    "server": {"server", "backends", "wire", "v1"},
    "backends": {"backends"},
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


def imports(path: Path) -> set[str]:
    """Full names of what a file imports, at its top or later."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_a_layer_imports_only_the_layers_below_it() -> None:
    wrong = []
    for layer, folder in SOURCES.items():
        files = list(folder.rglob("*.py"))
        assert files, folder
        for file in files:
            for name in imports(file):
                parts = name.split(".")
                if parts[0] == "gradwire" and parts[1] not in ALLOWED[layer]:
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_backends_know_nothing_of_grpc() -> None:
    names = {name.partition(".")[0] for file in SOURCES["backends"].rglob("*.py") for name in imports(file)}
    assert not names & {"grpc", "google", "grpc_health", "grpc_reflection"}


def test_frameworks_are_imported_in_rooms_of_their_own() -> None:
    wrong = []
    for layer in ("backends", "client", "server", "wire"):
        for file in SOURCES[layer].rglob("*.py"):
            if "demo" in file.parts:
                continue
            rooms = {*file.relative_to(SOURCES[layer]).parts, file.stem, file.stem.partition("_")[0]}
            for name in {name.partition(".")[0] for name in imports(file)} & set(FRAMEWORK_ROOMS):
                if not rooms & set(FRAMEWORK_ROOMS[name]) and not (file.stem == "art" and name == "torch"):
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_gradwire_is_a_namespace_with_types_in_every_part() -> None:
    for layer, folder in SOURCES.items():
        assert not (folder.parent / "__init__.py").exists(), f"{folder.parent} must not be a regular package"
        assert (folder / "py.typed").exists(), layer


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
        for folder in SOURCES.values()
        for file in folder.rglob("*.py")
        if "_pb2" not in file.name and (lines := len(file.read_text().splitlines())) > 430
    }
    assert not long
