"""Parallel faces of the neural backends: the same part has the same functions in the same order in every framework.

The files are parsed and not imported, so that no framework is loaded.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

BACKENDS = Path(__file__).parent.parent / "backends/gradwire/backends"
NEURAL = ("torch", "tensorflow", "keras", "tensorflow_v1", "jax", "mxnet")

# Keras models are TensorFlow models: the folder holds only the parts in which the two differ.
OWN_PARTS = tuple(framework for framework in NEURAL if framework != "keras")

# The rooms of a framework's folder, and the frameworks that need no such room.
ROOMS: dict[str, set[str]] = {
    "__init__": set(),
    "model": set(),
    "network": {"torch"},  # A torch module is its own network.
    "layers": {"keras"},
    "losses": {"keras"},
    "gradients": {"keras"},
    "device": {"keras"},
    "weights": {"keras"},
    "training": {"keras", "tensorflow_v1"},  # A TensorFlow 1 graph holds its operation of a training step.
    "programs": {"torch", "keras", "mxnet"},  # torch compiles on demand; MXNet compiles inside its network.
    "files": {"torch", "jax"},  # Their models come from factories alone.
    "arrays": {"tensorflow", "keras", "tensorflow_v1", "jax"},  # These convert arrays in their own calls.
}
# Rooms for which the other frameworks have no counterpart.
SPECIAL = {
    "torch": {"compile", "cuda_graphs", "layouts", "precision", "transfers"},
    "tensorflow": set[str](),
    "keras": set[str](),
    "tensorflow_v1": {"graph", "labels"},
    "jax": {"equinox_network", "flax_network", "owners", "traced"},
    "mxnet": {"config", "graphs"},
}

OPERATIONS = [
    "__init__",
    "device_reading",
    "notes",
    "predict",
    "logits",
    "uncertainty",
    "members",
    "loss",
    "loss_from_predictions",
    "loss_divisor",
    "loss_gradient",
    "class_gradient",
    "activations",
    "vjp",
    "train_step",
    "fit",
    "snapshot",
    "rollback",
    "save",
    "restore",
    "untrained_clone",
]
"""The one order of a model's methods; everything else comes after them."""
NEEDED = [name for name in OPERATIONS if name not in {"device_reading", "notes", "logits", "uncertainty", "members", "fit"}]

ROW_LOSS = {
    "targets": ["y", "row"],
    "rows": ["outputs", "targets"],
    "reduced": ["rows", "divisor"],
    "divisor": ["y"],
}
ROW_LOSS_MADE_OF = ["loss", "regression", "dtype"]
ROW_LOSS_ATTRIBUTES = {"name", "reduction", "takes_logits"}

WEIGHTS = ["read", "read_saved", "put", "save", "copies", "put_back"]
LAYERS = ["names", "find", "outputs"]


def parsed(framework: str, room: str) -> ast.Module:
    """The syntax tree of a room."""
    return ast.parse((BACKENDS / framework / f"{room}.py").read_text())


def functions(body: list[ast.stmt]) -> dict[str, list[str]]:
    """The parameters of functions by name, without ``self``, in the order of the file."""
    return {
        node.name: [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
        for node in body
        if isinstance(node, ast.FunctionDef)
    }


def class_named(tree: ast.Module, name: str) -> ast.ClassDef:
    """The only class whose name ends in ``name``."""
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith(name))
    return found


def assigned(node: ast.AST) -> Iterator[str]:
    """Names of the attributes that are assigned to ``self``, in the order of the file."""
    for inner in ast.walk(node):
        if not isinstance(inner, ast.Attribute) or not isinstance(inner.ctx, ast.Store):
            continue
        if isinstance(inner.value, ast.Name) and inner.value.id == "self":
            yield inner.attr


def attributes(node: ast.ClassDef) -> set[str]:
    """Names of the attributes of a class and of its objects."""
    own = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return own | set(assigned(node))


def in_order(found: list[str], canonical: list[str]) -> bool:
    """True if names come in the canonical order."""
    places = [canonical.index(name) for name in found if name in canonical]
    return places == sorted(places)


@pytest.mark.parametrize("framework", NEURAL)
def test_a_folder_has_the_rooms_of_every_framework(framework: str) -> None:
    found = {file.stem for file in (BACKENDS / framework).glob("*.py")}
    expected = {room for room, without in ROOMS.items() if framework not in without}
    assert found == expected | SPECIAL[framework]


@pytest.mark.parametrize("framework", NEURAL)
def test_a_folder_offers_config_load_and_its_model(framework: str) -> None:
    (names,) = (
        ast.literal_eval(node.value)
        for node in parsed(framework, "__init__").body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    )
    assert {"Config", "load"} <= set(names)
    assert names == sorted(names)
    assert framework == "keras" or any(name.endswith("Model") for name in names)


@pytest.mark.parametrize("framework", NEURAL)
def test_model_files_define_config_then_load_then_the_model(framework: str) -> None:
    tree = parsed(framework, "model")
    defined = [node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    public = [name for name in defined if not name.startswith("_")]
    # MXNet's Config can be read without MXNet, and is in a room of its own; Keras's model is TensorFlow's.
    expected = [] if framework == "mxnet" else ["Config"]
    expected += ["load"] if framework == "keras" else ["load", class_named(tree, "Model").name]
    assert public == expected
    assert functions(tree.body)["load"] == ["config"]


@pytest.mark.parametrize("framework", OWN_PARTS)
def test_a_model_has_the_operations_in_one_order(framework: str) -> None:
    model = class_named(parsed(framework, "model"), "Model")
    found = list(functions(model.body))
    assert set(NEEDED) <= set(found)
    first = [name for name in found if name in OPERATIONS]
    assert found[: len(first)] == first, "operations come first"
    assert in_order(first, OPERATIONS)
    assert {"_missing_operations", "_row_loss"} <= set(found)


@pytest.mark.parametrize("framework", OWN_PARTS)
def test_operations_have_the_same_parameters_in_every_model(framework: str) -> None:
    ground = class_named(ast.parse((BACKENDS / "backend.py").read_text()), "Differentiable")
    trainable = class_named(ast.parse((BACKENDS / "backend.py").read_text()), "Trainable")
    protocol = functions(ground.body) | functions(trainable.body)
    found = functions(class_named(parsed(framework, "model"), "Model").body)
    assert {name: found[name] for name in protocol if name in found} == {name: protocol[name] for name in protocol if name in found}


@pytest.mark.parametrize("framework", OWN_PARTS)
def test_a_model_sets_its_attributes_in_one_order(framework: str) -> None:
    canonical = ["input_dtype", "layer_names", "loss_name", "loss_reduction", "output_kind", "device"]
    (init,) = (
        node
        for node in class_named(parsed(framework, "model"), "Model").body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    found = [name for statement in init.body for name in assigned(statement) if name in canonical]
    assert found == canonical


@pytest.mark.parametrize("framework", OWN_PARTS)
def test_row_losses_have_one_face(framework: str) -> None:
    loss = class_named(parsed(framework, "losses"), "RowLoss")
    found = functions(loss.body)
    public = {name: parameters for name, parameters in found.items() if not name.startswith("_")}
    if framework == "tensorflow":
        # Inside a graph soft labels cannot be told from one-hot ones.
        assert public.pop("soft") == ["y"]
        assert public["rows"].pop() == "soft"
    assert public == ROW_LOSS
    assert list(public) == list(ROW_LOSS)
    if framework == "tensorflow_v1":
        # The loss is in the graph already: whether it is of logits is seen from the graph's output.
        assert attributes(loss) >= ROW_LOSS_ATTRIBUTES - {"takes_logits"}
    else:
        assert found["__init__"][:3] == ROW_LOSS_MADE_OF
        assert attributes(loss) >= ROW_LOSS_ATTRIBUTES


@pytest.mark.parametrize(("room", "framework"), [(r, f) for r in ("losses", "training") for f in OWN_PARTS if f != "tensorflow_v1"])
def test_losses_and_optimizers_are_built_from_what_the_configuration_names(room: str, framework: str) -> None:
    assert functions(parsed(framework, room).body)["build"][0] == "spec"


@pytest.mark.parametrize("framework", OWN_PARTS)
def test_weights_have_one_face(framework: str) -> None:
    found = functions(parsed(framework, "weights").body)
    # JAX's arrays never change: a snapshot holds them, and needs no copies.
    expected = [name for name in WEIGHTS if framework != "jax" or name not in {"copies", "put_back"}]
    assert [name for name in found if not name.startswith("_")][: len(expected)] == expected
    assert found["read"][0] == "path"
    assert found["read"][1:2] in ([], ["trust_pickle"])
    assert found["read_saved"] == ["path"]
    # The first parameter is the framework's own: a module, a block, variables.
    assert found["put"][1:3] == ["arrays", "source"]
    assert found["save"][-1] == "path"
    if framework != "jax":
        assert len(found["copies"]) == 1
        assert found["put_back"] == [*found["copies"], "before"]


@pytest.mark.parametrize("framework", OWN_PARTS)
def test_layers_have_one_face(framework: str) -> None:
    found = functions(parsed(framework, "layers").body)
    assert [name for name in found if not name.startswith("_")][: len(LAYERS)] == LAYERS
    assert len(found["names"]) == 1
    assert found["find"][1:] == ["layer"]
    assert found["outputs"][0] == "result"
    # Of graphs the number of rows is not known when they are made.
    assert found["outputs"][1:] == ([] if framework.startswith("tensorflow") else ["rows"])


@pytest.mark.parametrize("framework", ["torch", "jax", "mxnet"])
def test_devices_are_found_by_name(framework: str) -> None:
    assert functions(parsed(framework, "device").body)["find_device"][0] == "name"


@pytest.mark.parametrize("framework", ["torch", "tensorflow", "mxnet"])
def test_the_errors_of_a_framework_are_translated_beside_its_devices(framework: str) -> None:
    class_named(parsed(framework, "device"), "FrameworkErrors")
