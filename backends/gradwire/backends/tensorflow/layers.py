"""What TensorFlow and Keras models are made of: layers, variables, and what layers put out.

A layer is a ``tf.Module`` or a Keras layer. Inside a Keras layer, layers have Keras's names and ``/`` between them; inside
anything else those of the attributes and ``.`` between them.

What holds: nothing is left on a layer after the block that captured its output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from gradwire.backends.errors import InvalidLayer
from gradwire.backends.tensorflow.device import keras, tf


def is_layer(thing: Any) -> bool:
    """Whether it is something that has outputs which can be captured."""
    return isinstance(thing, (tf.Module, keras.layers.Layer))


def children(owner: Any) -> dict[str, Any]:
    """The layers directly inside, by name; of a Keras model in its order, else in the order of the attributes."""
    if isinstance(owner, keras.layers.Layer):
        inside = owner.layers if isinstance(owner, keras.Model) else owner._flatten_layers(include_self=False, recursive=False)
        return {layer.name: layer for layer in inside if not isinstance(layer, keras.layers.InputLayer)}
    return {name: part for name, part in _parts(owner) if is_layer(part)}


def names(owner: Any) -> list[str]:
    """The layers directly inside, in the order of their indices."""
    return list(children(owner))


def every(owner: Any) -> dict[str, Any]:
    """The layers at any depth, by the path to them."""
    return dict(_walk(owner, "", (owner,)))


def find(owner: Any, layer: str | int) -> tuple[str, Any]:
    """A layer by its index in `names`, negative ones from the end, or by its path at any depth."""
    top = children(owner)
    if isinstance(layer, str):
        found = every(owner)
        if layer not in found:
            raise InvalidLayer(f"there is no layer {layer!r}; there are {', '.join(top) or 'none'}{_deeper(top, found)}")
        return layer, found[layer]
    if not -len(top) <= layer < len(top):
        raise InvalidLayer(f"layer index {layer} is out of range; there are {len(top)} layers: {', '.join(top) or 'none'}")
    name = list(top)[layer]
    return name, top[name]


def variables(owner: Any) -> dict[str, Any]:
    """Every weight, trainable or not, by a name that is the same whenever the model is made anew.

    Those of Keras are counted, because Keras numbers its layers through the whole process. Seeds of dropout are not among
    them.
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
    """What a layer put out last; of several outputs (a recurrent layer's) the first.

    Args:
        name: Of the layer, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._output: Any = None

    def watching(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, whose result is kept."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            self._output = result
            return result

        return watched

    def output(self) -> Any:
        """The tensor. Raises InvalidLayer if there is none that the caller's graph can use."""
        output = self._output
        if output is None:
            raise InvalidLayer(f"layer {self._name!r} is not called by the model: choose one of the layers inside it, or around it")
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not tf.is_tensor(output):
            raise InvalidLayer(f"layer {self._name!r} puts out {type(output).__name__}; expected a tensor")
        if tf.is_symbolic_tensor(output) and output.graph is not tf.compat.v1.get_default_graph():
            raise InvalidLayer(
                f"layer {self._name!r} runs inside a loop or a tf.function of the model, out of which its output does not come; "
                "choose the layer around it"
            )
        return output


@contextmanager
def capturing(owner: Any, layer: str | int) -> Iterator[Captured]:
    """Keeps what the layer puts out while the block calls the model."""
    name, target = find(owner, layer)
    captured = Captured(name)
    with ExitStack() as changed:
        for outer in {id(found): found for found in (owner, *every(owner).values())}.values():
            if outer is not target and _is_compiled(outer):
                # A tf.function keeps the outputs of what it calls in a graph of its own: its Python runs in its place.
                changed.enter_context(_class_call(outer, lambda call: call))
        if isinstance(target, keras.layers.Layer):
            changed.enter_context(_keras_call(target, captured.watching))
        else:
            changed.enter_context(_class_call(target, captured.watching))
        yield captured


def _is_compiled(layer: Any) -> bool:
    return not isinstance(layer, keras.layers.Layer) and hasattr(_call_of(type(layer)), "python_function")


def _call_of(kind: type) -> Any:
    return getattr(kind, "__call__", None)  # noqa: B004, it is the function that is wanted


@contextmanager
def _class_call(module: Any, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """For the block, the module is of a class of its own with another ``__call__``: Python looks that up in classes alone."""
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
    """For the block, the layer has another ``call``. Not by setting it: Keras would track it as a part of the layer."""
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
    """Name, variable, and whether training changes it."""
    if isinstance(owner, keras.layers.Layer):
        # Keras freezes whole layers, which their variables do not know of.
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
    """The attributes of an object, and what is in those that are lists and dicts, in the order in which they were set."""
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


def _deeper(top: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    inner = [name for name in found if name not in top]
    return f"; inside these, e.g. {inner[0]}" if inner else ""
