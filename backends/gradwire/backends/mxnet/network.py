"""Gluon blocks as networks, traced to a graph or run as written.

Invariant: a network answers the same in both ways, and no hook outlives the block that needed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np

from gradwire.backends import layer_names
from gradwire.backends.mxnet import graphs, layers
from gradwire.backends.mxnet.device import mx
from gradwire.backends.mxnet.gradients import missing_gradient, running

_Recurrent = mx.gluon.rnn.rnn_layer._RNNLayer


class Network(Protocol):
    """A block in one of the two ways to run it."""

    layer_names: list[str]
    """In the order of their indices."""
    recurrent: bool
    """True if gradients of the inputs need those of the weights: see `gradients.gradient`."""
    ends_in_probabilities: bool
    known: bool
    """True if `check_gradient` finds missing gradients; otherwise `gradients.check_recorded` does afterwards."""

    def outputs(self, inputs: Any, *, training_mode: bool) -> Any:
        """Outputs ``(n, C)`` or ``(n, 1)`` for inputs ``(n, *input_shape)``."""
        ...

    def layer(self, inputs: Any, layer: str | int, *, training_mode: bool) -> Any:
        """The output of a layer, ``(n, ...)``. Raises InvalidLayer."""
        ...

    def check_gradient(self, layer: str | int | None) -> None:
        """Raises Unsupported if a layer, or the outputs, are known to have no gradient."""


def network(block: Any, example: Any, hybridize: bool) -> tuple[Network, list[str]]:
    """Makes the network of a block with weights, and notes for the card.

    A HybridBlock is traced: its graph is some three times as fast for one row, and is checked and repaired as a whole.
    A block that cannot be traced, or answers differently when traced, runs as written.

    Args:
        block: A ``mxnet.gluon.Block``.
        example: Inputs to try the block with; None for none.
        hybridize: Whether to trace.
    """
    exported = isinstance(block, mx.gluon.SymbolBlock)
    if not exported and not (hybridize and isinstance(block, mx.gluon.HybridBlock)):
        return Written(block), []
    try:
        traced = Traced(block)
        if exported or example is None or _same(traced, block, example):
            return traced, []
        reason = "its graph answers something else"
    except Exception as e:
        if exported:
            raise
        reason = f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else 'without a text'}"
    return Written(block), [f"runs the block's Python code in every call, because it cannot be traced ({reason})"]


class Traced:
    """A HybridBlock as a graph, and the graphs that end in its layers; each is compiled at its first run.

    Args:
        block: With all of its weights.

    Raises:
        Exception: The block fails when it is called with a symbol.
    """

    known = True

    def __init__(self, block: Any) -> None:
        parameters = block.collect_params()
        outputs, inner, self.layer_names = _trace(block)
        names = list(inner)
        symbols = graphs.repaired([outputs, *inner.values()])
        still = graphs.without_recurrent_dropout(symbols) if graphs.has_recurrent_dropout(symbols[0]) else symbols
        self._symbols: dict[str | None, Any] = dict(zip((None, *names), symbols, strict=True))
        self._still: dict[str | None, Any] = dict(zip((None, *names), still, strict=True))
        self._weights = {name: parameter.data() for name, parameter in parameters.items()}
        self._modes = still is not symbols
        self._programs: dict[tuple[str | None, bool], _Program] = {}
        nodes = graphs.operators(symbols[0])
        self.recurrent = any(node["op"] == "RNN" for node in nodes)
        self.ends_in_probabilities = bool(nodes) and _squashes(nodes[-1])
        self._program(None, False)

    def outputs(self, inputs: Any, *, training_mode: bool) -> Any:
        """Outputs ``(n, C)`` or ``(n, 1)``."""
        return layers.outputs(self._program(None, training_mode)(inputs), inputs.shape[0])

    def layer(self, inputs: Any, layer: str | int, *, training_mode: bool) -> Any:
        """The output of a layer, ``(n, ...)``."""
        name = self._find(layer)
        return layers.layer_output(name, self._program(name, training_mode)(inputs), inputs.shape[0])

    def check_gradient(self, layer: str | int | None) -> None:
        """Raises Unsupported if the graph of a layer, or of the outputs, has no gradient."""
        if not self._program(None if layer is None else self._find(layer), False).differentiable:
            raise missing_gradient()

    def _find(self, layer: str | int) -> str:
        traced = [name for name in self._symbols if name is not None]
        name = layer_names.find(layer, self.layer_names, [*self.layer_names, *traced])
        if name not in self._symbols:
            raise layer_names.uncalled(name)
        return name

    def _program(self, name: str | None, training_mode: bool) -> _Program:
        key = (name, training_mode and self._modes)
        if key not in self._programs:
            self._programs[key] = _Program((self._symbols if key[1] else self._still)[name], self._weights)
        return self._programs[key]


class _Program:
    """A compiled graph with its weights. It is compiled once, not once for each number of rows."""

    def __init__(self, symbol: Any, weights: Mapping[str, Any]) -> None:
        names = symbol.list_inputs()
        rows = [place for place, name in enumerate(names) if name == graphs.DATA]
        others = [place for place, name in enumerate(names) if name != graphs.DATA]
        # The arrays themselves, which a fit changes in place: asking each parameter for its own takes longer than one row.
        self._arguments = [None if name == graphs.DATA else weights[name] for name in names]
        self._run = mx.nd.CachedOp(symbol, [("data_indices", rows), ("param_indices", others)])
        self.differentiable = graphs.differentiable(symbol)

    def __call__(self, inputs: Any) -> Any:
        return self._run(*[inputs if argument is None else argument for argument in self._arguments])


class Written:
    """A block that runs as written. Hybrid blocks inside run in Python too, so that hooks work.

    Args:
        block: With all of its weights.
    """

    known = False

    def __init__(self, block: Any) -> None:
        block.hybridize(False)
        self._block = block
        self._layers = layers.every(block)
        self.layer_names = layers.names(block)
        inside = [block, *self._layers.values()]
        self._dropping = [layer for layer in inside if isinstance(layer, _Recurrent) and layer._dropout]
        self.recurrent = any(isinstance(layer, _Recurrent) for layer in inside)
        for layer in inside:
            if isinstance(layer, mx.gluon.nn.SELU):
                layer.hybrid_forward = _selu
        last = list(block._children.values())[-1:]
        self.ends_in_probabilities = bool(last) and getattr(last[0], "_act_type", "") == "sigmoid"

    def outputs(self, inputs: Any, *, training_mode: bool) -> Any:
        """Outputs ``(n, C)`` or ``(n, 1)``."""
        with self._mode(training_mode):
            return layers.outputs(layers.last(self._block(inputs)), inputs.shape[0])

    def layer(self, inputs: Any, layer: str | int, *, training_mode: bool) -> Any:
        """The output of a layer, ``(n, ...)``."""
        name, block = layers.find(self._block, layer)
        with layers.capturing({name: block}) as captured, self._mode(training_mode):
            self._block(inputs)
        if name not in captured:
            raise layer_names.uncalled(name)
        return layers.layer_output(name, captured[name], inputs.shape[0])

    def check_gradient(self, layer: str | int | None) -> None:
        """Does nothing: gradients of Python code are known only when it has run."""

    def _mode(self, training_mode: bool) -> AbstractContextManager[None]:
        return nullcontext() if training_mode or not self._dropping else self._dropping_nothing()

    @contextmanager
    def _dropping_nothing(self) -> Iterator[None]:
        """Does the same as `graphs.without_recurrent_dropout`."""
        kept = [layer._dropout for layer in self._dropping]
        for layer in self._dropping:
            layer._dropout = 0.0
        try:
            yield
        finally:
            for layer, dropout in zip(self._dropping, kept, strict=True):
                layer._dropout = dropout


def _trace(block: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """The symbol of the outputs, those of layers by name, and the names that have indices: all but nested ones."""
    if isinstance(block, mx.gluon.SymbolBlock):
        outputs = layers.last(block(graphs.variable()))
        internals = outputs.get_internals()
        inner = {name.removesuffix("_output"): internals[place] for place, name in enumerate(internals.list_outputs())}
        # Without the weights and symbols that depend on weights alone.
        ours = {name: symbol for name, symbol in inner.items() if name != graphs.DATA and graphs.DATA in symbol.list_inputs()}
        return outputs, ours, list(ours)
    with layers.capturing(layers.every(block)) as captured:
        outputs = layers.last(block(graphs.variable()))
    return outputs, {name: layers.first(symbol) for name, symbol in captured.items()}, layers.names(block)


def _same(traced: Traced, block: Any, example: Any) -> bool:
    with running(False):
        ours, theirs = traced.outputs(example, training_mode=False), layers.last(block(example))
    theirs = layers.outputs(theirs, example.shape[0])
    return ours.shape == theirs.shape and bool(np.allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-3, atol=1e-5, equal_nan=True))


def _squashes(node: graphs.Node) -> bool:
    sigmoid = node["op"] == "Activation" and node["attrs"]["act_type"] == "sigmoid"
    return sigmoid or node["op"] in ("softmax", "SoftmaxActivation", "sigmoid")


def _selu(operators: Any, x: Any) -> Any:
    """The SELU that `graphs.repaired` writes."""
    return operators.LeakyReLU(x, act_type="elu", slope=graphs.SELU_ALPHA) * graphs.SELU_SCALE
