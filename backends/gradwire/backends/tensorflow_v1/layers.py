"""The layers of a TensorFlow 1 graph: tensors between the input and the output, by their names.

Invariant: a layer needs no feeds that predictions do not need, and a bounded number of layers has gradients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gradwire.backends import layer_names
from gradwire.backends.backend import Array
from gradwire.backends.errors import InvalidLayer, Unsupported
from gradwire.backends.tensorflow_v1.gradients import product
from gradwire.backends.tensorflow_v1.graph import downstream, upstream
from gradwire.backends.tensorflow_v1.network import Network
from gradwire.backends.tensorflow_v1.programs import Program

# Gradients of a layer stay in the graph for good. All layers in the list of names get theirs on demand; a graph has thousands of
# other tensors, of which only the first ones do.
_MAX_OTHERS = 32
# A session keeps a compiled plan for each.
_MAX_PROGRAMS = 64


def names(network: Network) -> list[str]:
    """Names of the last tensor of each scope between the input and the output, which comes last.

    As in ART, only tensors with rows in front and a second axis of a known size count.
    """
    between = upstream([network.output]) & downstream(network.input)
    found: list[str] = []
    for op in network.session.graph.get_operations():
        if op not in between or not op.outputs:
            continue
        shape = op.outputs[0].shape
        if shape.rank is None or shape.rank < 2 or shape.as_list()[0] is not None or shape.as_list()[1] is None:
            continue
        if found and _scope(found[-1]) == _scope(op.name):
            found.pop()
        found.append(op.outputs[0].name)
    last = network.output.name
    if last not in found:
        if found and _scope(found[-1]) == _scope(last):
            found.pop()
        found.append(last)
    return found


def find(layers: Layers, layer: str | int) -> Layer:
    """Finds a layer by its index in `names`, by its tensor or operation, or by its scope. Raises InvalidLayer."""
    if not isinstance(layer, str):
        return layers.named(layer_names.find(layer, layers.names, layers.names))
    scopes = {_scope(name): name for name in layers.names}
    if layer in layers.names or layer in scopes:
        return layers.named(scopes.get(layer, layer))
    return layers.named(layer if ":" in layer else f"{layer}:0")


def outputs(result: Array) -> Array:
    """The outputs ``(n, C)`` of a run: a column if the graph has one output and no axis for it."""
    return result[:, None] if result.ndim == 1 else result


class Layer(NamedTuple):
    """A tensor that depends on the input."""

    name: str
    tensor: Any

    def shape(self, rows: int) -> tuple[Any, ...]:
        """The shape of its output for so many rows; None for sizes that the graph leaves open."""
        return (rows, *self.tensor.shape.as_list()[1:]) if self.tensor.shape.rank else (None,)


class Layers:
    """The layers of a network, and their programs, which are made at their first use.

    Args:
        network: The graph.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.names = names(network)
        # Operations that are added to the graph later are no layers.
        self._operations = downstream(network.input)
        self._activations: dict[str, Program] = {}
        self._products: dict[str, Program] = {}

    def activations(self, layer: Layer) -> Program:
        """The program from the input to the layer's output."""
        program = self._activations.pop(layer.tensor.name, None)
        if program is None:
            program = self._network.program([layer.tensor], [self._network.input])
            if len(self._activations) >= _MAX_PROGRAMS:
                del self._activations[next(iter(self._activations))]
        self._activations[layer.tensor.name] = program  # The least recently used comes first.
        return program

    def product(self, layer: Layer) -> Program:
        """The program from the input and a cotangent to its product with the Jacobian. Raises Unsupported without gradients."""
        name = layer.tensor.name
        if name in self._products:
            return self._products[name]
        if name not in self.names and len(self._products.keys() - set(self.names)) >= _MAX_OTHERS:
            raise Unsupported(
                f"{_MAX_OTHERS} tensors besides the layers have gradients already, and each makes the graph larger; choose one of "
                f"the layers: {layer_names.listed(self.names)}"
            )
        program = product(self._network, layer.tensor)
        if program is None:
            raise Unsupported(f"the graph has no gradient from layer {layer.name!r} to the input")
        self._products[name] = program
        return program

    def named(self, name: str) -> Layer:
        """The layer of a tensor's name.

        Raises:
            InvalidLayer: The graph has no such layer, or it needs more feeds than predictions do.
        """
        try:
            tensor = self._network.session.graph.get_tensor_by_name(name)
        except (KeyError, ValueError) as e:
            raise InvalidLayer(
                f"there is no layer {name.removesuffix(':0')!r}; there are {layer_names.listed(self.names)}, and the tensors "
                "between these"
            ) from e
        if tensor.op not in self._operations or self._network.unfed([tensor]):
            raise InvalidLayer(f"{name!r} does not depend on the input alone; the layers are {layer_names.listed(self.names)}")
        if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
            raise InvalidLayer(f"{name!r} puts out {tensor.dtype.name}; expected numbers")
        return Layer(name, tensor)


def _scope(name: str) -> str:
    return name.split("/")[0].removesuffix(":0")
