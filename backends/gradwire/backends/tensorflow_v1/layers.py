"""The layers of a TensorFlow 1 graph: tensors on the way from the input to the output, by their names.

What holds: a layer needs nothing fed that predictions do not need, and a bounded number of them has gradients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from gradwire.backends.errors import InvalidLayer, InvalidShape, Unsupported
from gradwire.backends.tensorflow_v1.graph import downstream, upstream
from gradwire.backends.tensorflow_v1.network import Network
from gradwire.backends.tensorflow_v1.programs import Program

# Gradients of a layer stay in the graph for good. The layers by name have theirs whenever asked for; of other tensors, of
# which a graph has thousands, the first ones do.
_MAX_OTHERS = 32
# A session keeps a plan of what to run for each.
_MAX_PROGRAMS = 64


class Layer(NamedTuple):
    """A tensor that depends on the input."""

    name: str
    tensor: Any

    def shape(self, rows: int) -> tuple[Any, ...]:
        """Of what it puts out for so many rows, as far as the graph tells: None where it does not."""
        return (rows, *self.tensor.shape.as_list()[1:]) if self.tensor.shape.rank else (None,)

    def check(self, shape: tuple[int, ...], rows: int) -> None:
        """Raises InvalidLayer if what it puts out has no axis of rows in front."""
        if shape[:1] != (rows,):
            raise InvalidLayer(f"layer {self.name!r} puts out {shape} for {rows} rows; expected rows first")


class Layers:
    """The layers of a network, and programs for them that are made when they are first asked for.

    Args:
        network: The graph.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.names = _names(network)
        # What is added to the graph later is no layer.
        self._operations = downstream(network.input)
        self._activations: dict[str, Program] = {}
        self._products: dict[str, Program] = {}

    def find(self, layer: str | int) -> Layer:
        """A layer by its index in `names`, negative ones from the end, by the name of a tensor or operation, or by its scope.

        Raises:
            InvalidLayer: There is none, or it needs more than predictions do.
        """
        if not isinstance(layer, str):
            if not -len(self.names) <= layer < len(self.names):
                raise InvalidLayer(f"layer index {layer} is out of range; there are {len(self.names)} layers: {self._listed()}")
            return self._layer(self.names[layer])
        scopes = {_scope(name): name for name in self.names}
        if layer in self.names or layer in scopes:
            return self._layer(scopes.get(layer, layer))
        return self._layer(layer if ":" in layer else f"{layer}:0")

    def activations(self, layer: Layer) -> Program:
        """A program from the input to what the layer puts out."""
        program = self._activations.pop(layer.tensor.name, None)
        if program is None:
            program = self._network.program([layer.tensor], [self._network.input])
            if len(self._activations) >= _MAX_PROGRAMS:
                del self._activations[next(iter(self._activations))]
        self._activations[layer.tensor.name] = program  # The one that was not used for longest comes first.
        return program

    def product(self, layer: Layer) -> Program:
        """A program from the input and a cotangent to its product with the Jacobian. Raises Unsupported if there is none."""
        name = layer.tensor.name
        if name in self._products:
            return self._products[name]
        if name not in self.names and len(self._products.keys() - set(self.names)) >= _MAX_OTHERS:
            raise Unsupported(
                f"{_MAX_OTHERS} tensors that are not among the layers have gradients already, and each makes the graph larger; "
                f"choose one of the layers: {self._listed()}"
            )
        program = product(self._network, layer.tensor)
        if program is None:
            raise Unsupported(f"the graph has no gradient from layer {layer.name!r} to the input")
        self._products[name] = program
        return program

    def _layer(self, name: str) -> Layer:
        try:
            tensor = self._network.session.graph.get_tensor_by_name(name)
        except (KeyError, ValueError) as e:
            raise InvalidLayer(
                f"there is no layer {name.removesuffix(':0')!r}; there are {self._listed()}, and the tensors between these"
            ) from e
        if tensor.op not in self._operations or self._network.unfed([tensor]):
            raise InvalidLayer(f"{name!r} does not depend on the input alone; the layers are {self._listed()}")
        if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
            raise InvalidLayer(f"{name!r} puts out {tensor.dtype.name}; expected numbers")
        return Layer(name, tensor)

    def _listed(self) -> str:
        return ", ".join(self.names)


def product(network: Network, of: Any) -> Program | None:
    """A program from the input and a cotangent of a tensor to the gradient; None if there is no way back to the input."""
    with network.building():
        cotangent = tf.compat.v1.placeholder(of.dtype, of.shape)
    gradient = network.gradient(of, cotangent)
    return None if gradient is None else network.program([gradient], [network.input, cotangent])


def check_cotangent(shape: tuple[int, ...], expected: tuple[int, ...], what: str) -> None:
    """Raises InvalidShape if a cotangent is not of the shape of what it belongs to."""
    if shape != expected:
        raise InvalidShape(f"cotangent has shape {shape}; expected {expected}, as the {what}")


def _names(network: Network) -> list[str]:
    """Names of tensors: the last of each scope on the way from the input to the output, which is the last of all.

    Which tensors count is ART's rule: rows in front, and a second axis of a size that is known.
    """
    between = upstream([network.output]) & downstream(network.input)
    names: list[str] = []
    for op in network.session.graph.get_operations():
        if op not in between or not op.outputs:
            continue
        shape = op.outputs[0].shape
        if shape.rank is None or shape.rank < 2 or shape.as_list()[0] is not None or shape.as_list()[1] is None:
            continue
        if names and _scope(names[-1]) == _scope(op.name):
            names.pop()
        names.append(op.outputs[0].name)
    last = network.output.name
    if last not in names:
        if names and _scope(names[-1]) == _scope(last):
            names.pop()
        names.append(last)
    return names


def _scope(name: str) -> str:
    return name.split("/")[0].removesuffix(":0")
