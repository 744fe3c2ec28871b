"""Gluon blocks as something to run: outputs, and what layers put out.

What holds: a network answers the same whether it is traced or not, and no hook outlives the block that needed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np

from gradwire.backends.errors import InvalidLayer, ModelFailed
from gradwire.backends.mxnet import graphs
from gradwire.backends.mxnet.device import autograd, mx, no_way_back, running

_Recurrent = mx.gluon.rnn.rnn_layer._RNNLayer


class Network(Protocol):
    """What a model runs."""

    layer_names: list[str]
    recurrent: bool
    """Whether gradients of the inputs need those of the weights: see `mxnet_runtime.gradient`."""
    ends_in_probabilities: bool
    known: bool
    """Whether `check_way_back` knows; else `check_recorded` does afterwards."""

    def outputs(self, inputs: Any, *, training_mode: bool) -> Any:
        """``(n, C)`` for inputs ``(n, *input_shape)``, or ``(n, 1)``."""
        ...

    def layer(self, inputs: Any, layer: str | int, *, training_mode: bool) -> Any:
        """What a layer puts out, ``(n, ...)``. Raises InvalidLayer."""
        ...

    def check_way_back(self, layer: str | int | None) -> None:
        """Raises Unsupported if it is known that nothing comes back from a layer, or from the outputs."""


def network(block: Any, example: Any, hybridize: bool) -> tuple[Network, list[str]]:
    """The network of a block whose weights are there, and notes for the card.

    A HybridBlock is traced: its graph is some three times as fast for one row, and is checked and repaired as a whole.
    What cannot be traced, or answers something else when it is, runs as it is written.

    Args:
        block: A ``mxnet.gluon.Block``.
        example: Inputs that it takes; None if there are none to try.
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
    """A HybridBlock as a graph, and the graphs that end in its layers; each is compiled when it is first run.

    Args:
        block: With all of its weights.

    Raises:
        Exception: Whatever the block raises when it is called with a symbol.
    """

    known = True

    def __init__(self, block: Any) -> None:
        parameters = block.collect_params()
        outputs, layers, self.layer_names = _trace(block)
        names = list(layers)
        symbols = graphs.repaired([outputs, *layers.values()])
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
        return outputs(self._program(None, training_mode)(inputs), inputs.shape[0])

    def layer(self, inputs: Any, layer: str | int, *, training_mode: bool) -> Any:
        name = self._find(layer)
        return layer_output(name, self._program(name, training_mode)(inputs), inputs.shape[0])

    def check_way_back(self, layer: str | int | None) -> None:
        if not self._program(None if layer is None else self._find(layer), False).differentiable:
            raise no_way_back()

    def _find(self, layer: str | int) -> str:
        name = _name(self.layer_names, layer)
        if name not in self._symbols:
            raise InvalidLayer(f"layer {layer!r} is not there, or not called; {_those(self.layer_names)}")
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
        # The arrays themselves, which keep their places in a fit: asking each parameter for its own takes longer than one row.
        self._arguments = [None if name == graphs.DATA else weights[name] for name in names]
        self._run = mx.nd.CachedOp(symbol, [("data_indices", rows), ("param_indices", others)])
        self.differentiable = graphs.differentiable(symbol)

    def __call__(self, inputs: Any) -> Any:
        return self._run(*[inputs if argument is None else argument for argument in self._arguments])


class Written:
    """A block that runs as it is written. What is hybrid inside is left to run in Python too, so that hooks hold.

    Args:
        block: With all of its weights.
    """

    known = False

    def __init__(self, block: Any) -> None:
        block.hybridize(False)
        self._block = block
        self._layers = dict(_descendants(block))
        self.layer_names = list(block._children)
        inside = [block, *self._layers.values()]
        self._dropping = [layer for layer in inside if isinstance(layer, _Recurrent) and layer._dropout]
        self.recurrent = any(isinstance(layer, _Recurrent) for layer in inside)
        for layer in inside:
            if isinstance(layer, mx.gluon.nn.SELU):
                layer.hybrid_forward = _selu
        last = list(block._children.values())[-1:]
        self.ends_in_probabilities = bool(last) and getattr(last[0], "_act_type", "") == "sigmoid"

    def outputs(self, inputs: Any, *, training_mode: bool) -> Any:
        with self._mode(training_mode):
            return outputs(_last(self._block(inputs)), inputs.shape[0])

    def layer(self, inputs: Any, layer: str | int, *, training_mode: bool) -> Any:
        name = _name(self.layer_names, layer)
        if name not in self._layers:
            raise InvalidLayer(f"there is no layer {layer!r}; {_those(self.layer_names)}")
        with _caught({name: self._layers[name]}) as caught, self._mode(training_mode):
            self._block(inputs)
        if name not in caught:
            raise InvalidLayer(f"layer {name!r} is not called by the model: choose one of the blocks inside it, or around it")
        return layer_output(name, caught[name], inputs.shape[0])

    def check_way_back(self, layer: str | int | None) -> None:
        """Python code is not known before it runs."""

    def _mode(self, training_mode: bool) -> AbstractContextManager[None]:
        return nullcontext() if training_mode or not self._dropping else self._dropping_nothing()

    @contextmanager
    def _dropping_nothing(self) -> Iterator[None]:
        """As `mxnet_graphs.without_recurrent_dropout`."""
        kept = [layer._dropout for layer in self._dropping]
        for layer in self._dropping:
            layer._dropout = 0.0
        try:
            yield
        finally:
            for layer, dropout in zip(self._dropping, kept, strict=True):
                layer._dropout = dropout


def check_recorded(of: Any, leaf: Any) -> None:
    """Raises Unsupported if what was recorded, and kept, has no way back to the inputs."""
    (name,) = autograd.get_symbol(leaf).list_inputs()
    if not graphs.differentiable(autograd.get_symbol(of), name):
        raise no_way_back()


def outputs(result: Any, rows: int) -> Any:
    """The outputs ``(rows, ...)``. Raises ModelFailed if they are something else."""
    if not isinstance(result, mx.nd.NDArray):
        raise ModelFailed(
            f"the block returned {type(result).__name__}; expected an NDArray, or a tuple whose last element is the outputs"
        )
    if result.shape[:1] != (rows,):
        raise ModelFailed(f"the block returned {result.shape} for {rows} rows; expected one row of outputs each")
    return result.expand_dims(1) if result.ndim == 1 else result


def layer_output(name: str, result: Any, rows: int) -> Any:
    """What a layer put out, ``(rows, ...)``. Raises InvalidLayer if it has no axis of rows in front."""
    if not isinstance(result, mx.nd.NDArray):
        raise InvalidLayer(f"layer {name!r} puts out {type(result).__name__}; expected an NDArray")
    if result.shape[:1] != (rows,):
        raise InvalidLayer(f"layer {name!r} puts out {result.shape} for {rows} rows; expected rows first")
    return result


def _trace(block: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """The symbol of the outputs, those of layers by name, and the names that count: all but nested ones."""
    if isinstance(block, mx.gluon.SymbolBlock):
        outputs = _last(block(graphs.variable()))
        internals = outputs.get_internals()
        layers = {name.removesuffix("_output"): internals[place] for place, name in enumerate(internals.list_outputs())}
        # Not the weights, nor what is made of them alone.
        ours = {name: layer for name, layer in layers.items() if name != graphs.DATA and graphs.DATA in layer.list_inputs()}
        return outputs, ours, list(ours)
    with _caught(dict(_descendants(block))) as caught:
        outputs = _last(block(graphs.variable()))
    return outputs, {name: _first(symbol) for name, symbol in caught.items()}, list(block._children)


@contextmanager
def _caught(layers: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What layers put out last, by name, while the block runs; of a tuple (a recurrent layer's) the first element."""
    caught: dict[str, Any] = {}

    def hook(name: str) -> Any:
        def catch(_block: Any, _inputs: Any, output: Any) -> None:
            caught[name] = _first(output)

        return catch

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.detach()


def _descendants(block: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, child in block._children.items():
        yield prefix + name, child
        yield from _descendants(child, f"{prefix}{name}.")


def _name(names: list[str], layer: str | int) -> str:
    """A layer's name, of the name itself or an index; negative ones from the end."""
    if isinstance(layer, str):
        return layer
    if not -len(names) <= layer < len(names):
        raise InvalidLayer(f"layer index {layer} is out of range; {_those(names)}")
    return names[layer]


def _those(names: list[str]) -> str:
    return f"there are {len(names)} layers: {', '.join(names) or 'none'}, and the blocks inside these"


def _last(result: Any) -> Any:
    """Of several results the last, as in ART."""
    while isinstance(result, (tuple, list)) and result:
        result = result[-1]
    several = isinstance(result, mx.sym.Symbol) and len(result.list_outputs()) > 1
    return result[len(result.list_outputs()) - 1] if several else result


def _first(result: Any) -> Any:
    while isinstance(result, (tuple, list)) and result:
        result = result[0]
    several = isinstance(result, mx.sym.Symbol) and len(result.list_outputs()) > 1
    return result[0] if several else result


def _same(traced: Traced, block: Any, example: Any) -> bool:
    with running(False):
        ours, theirs = traced.outputs(example, training_mode=False), _last(block(example))
    theirs = outputs(theirs, example.shape[0])
    return ours.shape == theirs.shape and bool(np.allclose(ours.asnumpy(), theirs.asnumpy(), rtol=1e-3, atol=1e-5, equal_nan=True))


def _squashes(node: graphs.Node) -> bool:
    sigmoid = node["op"] == "Activation" and node["attrs"]["act_type"] == "sigmoid"
    return sigmoid or node["op"] in ("softmax", "SoftmaxActivation", "sigmoid")


def _selu(operators: Any, x: Any) -> Any:
    """As `mxnet_graphs.repaired` writes it."""
    return operators.LeakyReLU(x, act_type="elu", slope=graphs.SELU_ALPHA) * graphs.SELU_SCALE
