"""The layers of TensorFlow and Keras models, their outputs and their variables.

A layer is a ``tf.Module`` or a Keras layer. Inside a Keras layer, layers have Keras's names and ``/`` between them; inside
other objects those of the attributes and ``.`` between them.

Invariant: no layer is changed after the block that captured its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from gradwire.backends import layer_names
from gradwire.backends.errors import InvalidLayer, ModelFailed
from gradwire.backends.tensorflow.device import keras, tf


def names(owner: Any) -> list[str]:
    """Names of the layers directly inside, in the order of their indices."""
    return list(children(owner))


def find(owner: Any, layer: str | int) -> tuple[str, Any]:
    """Finds a layer by its index in `names`, or by its path at any depth. Raises InvalidLayer."""
    top, found = children(owner), every(owner)
    name = layer_names.find(layer, list(top), found)
    return name, {**top, **found}[name]


def outputs(result: Any) -> Any:
    """Takes the outputs ``(n, ...)`` from a model's result: a tensor, or the last of several."""
    if isinstance(result, (tuple, list)) and result:
        result = result[-1]
    if not tf.is_tensor(result):
        raise ModelFailed(
            f"the model returned {type(result).__name__}; expected a tensor, or a tuple whose last element is the outputs"
        )
    if result.shape.rank == 0:
        raise ModelFailed("the model returned a scalar; expected one row of outputs each")
    return tf.expand_dims(result, 1) if result.shape.rank == 1 else result


def is_layer(thing: Any) -> bool:
    """True if an object has outputs that can be captured."""
    return isinstance(thing, (tf.Module, keras.layers.Layer))


def children(owner: Any) -> dict[str, Any]:
    """The layers directly inside, by name; of a Keras model in its order, else in the order of the attributes."""
    if isinstance(owner, keras.layers.Layer):
        inside = owner.layers if isinstance(owner, keras.Model) else owner._flatten_layers(include_self=False, recursive=False)
        return {layer.name: layer for layer in inside if not isinstance(layer, keras.layers.InputLayer)}
    return {name: part for name, part in _parts(owner) if is_layer(part)}


def every(owner: Any) -> dict[str, Any]:
    """The layers at any depth, by the path to them."""
    return dict(_walk(owner, "", (owner,)))


def variables(owner: Any) -> dict[str, Any]:
    """Every weight, trainable or not, by a name that is the same each time the model is made.

    Weights of Keras layers are numbered, because Keras counts its layers through the whole process. Seeds of dropout are left
    out.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, variable, _ in _variables(owner, "", (owner,)):
        if id(_tensorflows(variable)) not in seen:
            seen.add(id(_tensorflows(variable)))
            found[name] = _tensorflows(variable)
    return found


def trainable(owner: Any) -> list[Any]:
    """The weights that training changes; Keras's as Keras's variables, which know their constraints."""
    found = {id(_tensorflows(variable)): variable for _, variable, trains in _variables(owner, "", (owner,)) if trains}
    return list(found.values())


def seeds(owner: Any) -> list[Any]:
    """The states of the Keras layers' own random generators."""
    roots = [owner] if isinstance(owner, keras.layers.Layer) else every(owner).values()
    found: dict[int, Any] = {}
    for root in roots:
        if isinstance(root, keras.layers.Layer):
            weights = {id(weight) for weight in root.weights}
            found.update({id(v): v.value for v in root.variables if id(v) not in weights})
    return list(found.values())


class Captured:
    """The last output of a layer; the first of several, which recurrent layers return.

    Args:
        name: Of the layer, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._output: Any = None

    def watching(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a call so that its result is kept."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self._output = result
            return result

        return watched

    def output(self) -> Any:
        """The output. Raises InvalidLayer if the caller's graph cannot use it."""
        output = self._output
        if output is None:
            raise layer_names.uncalled(self._name)
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not tf.is_tensor(output):
            raise layer_names.no_tensor(self._name, output, "a tensor")
        if tf.is_symbolic_tensor(output) and output.graph is not tf.compat.v1.get_default_graph():
            raise InvalidLayer(
                f"layer {self._name!r} runs inside a loop or a tf.function of the model, which does not return its output; "
                "choose the layer around it"
            )
        return output


@contextmanager
def capturing(owner: Any, layer: str | int) -> Iterator[Captured]:
    """Keeps the layer's output while the block calls the model."""
    name, target = find(owner, layer)
    captured = Captured(name)
    with ExitStack() as changed:
        for outer in {id(found): found for found in (owner, *every(owner).values())}.values():
            if outer is not target and _is_compiled(outer):
                # A tf.function keeps inner outputs in a graph of its own: its Python code runs instead.
                changed.enter_context(_class_call(outer, lambda call: call))
        if isinstance(target, keras.layers.Layer):
            changed.enter_context(_keras_call(target, captured.watching))
        else:
            changed.enter_context(_class_call(target, captured.watching))
        yield captured


def _is_compiled(layer: Any) -> bool:
    return not isinstance(layer, keras.layers.Layer) and hasattr(_call_of(type(layer)), "python_function")


def _call_of(kind: type) -> Any:
    return getattr(kind, "__call__", None)  # noqa: B004, the function itself


@contextmanager
def _class_call(module: Any, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Gives the module, for the block, a class with another ``__call__``, which Python looks up in classes alone."""
    own = type(module)
    call = _call_of(own)
    if call is not None:
        inner = change(getattr(call, "python_function", call))
        object.__setattr__(module, "__class__", type(own.__name__, (own,), {"__call__": lambda *a, **k: inner(*a, **k)}))
    try:
        yield
    finally:
        object.__setattr__(module, "__class__", own)


@contextmanager
def _keras_call(layer: Any, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Gives the layer, for the block, another ``call``; an attribute that is set would be tracked by Keras."""
    before = layer.__dict__.get("call")
    layer.__dict__["call"] = change(layer.call)
    try:
        yield
    finally:
        if before is None:
            del layer.__dict__["call"]
        else:
            layer.__dict__["call"] = before


def _walk(owner: Any, path: str, around: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    for name, child in children(owner).items():
        if not any(child is outer for outer in around):  # a module may know the one that it is a part of
            yield path + name, child
            separator = "/" if isinstance(child, keras.layers.Layer) else "."
            yield from _walk(child, f"{path}{name}{separator}", (*around, child))


def _variables(owner: Any, path: str, around: tuple[Any, ...]) -> Iterator[tuple[str, Any, bool]]:
    """Names, variables, and a flag for those that training changes."""
    if isinstance(owner, keras.layers.Layer):
        # Keras freezes whole layers without marking their variables.
        trains = {id(weight) for weight in owner.trainable_weights}
        for i, weight in enumerate(owner.weights):
            yield f"{path}{i}.{weight.name}", weight, id(weight) in trains
        return
    for name, part in _parts(owner):
        if isinstance(part, (tf.Variable, keras.Variable)):
            yield path + name, part, bool(part.trainable)
        elif (is_layer(part) or isinstance(part, tf.__internal__.tracking.AutoTrackable)) and not any(part is o for o in around):
            yield from _variables(part, f"{path}{name}.", (*around, part))


def _tensorflows(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _parts(owner: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of an object and items of its lists and dicts, in the order of setting."""
    for name, value in getattr(owner, "__dict__", {}).items():
        if not name.startswith("_self_"):
            yield from _opened(name, value)


def _opened(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _opened(f"{name}.{i}", item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _opened(f"{name}.{key}", item)
    else:
        yield name, value
