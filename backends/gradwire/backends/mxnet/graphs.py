"""Graphs of operators, read from files or traced, in which operators with wrong gradients are replaced.

Invariant: a repaired graph has the same outputs as before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from gradwire.backends.mxnet.device import mx

Node: TypeAlias = dict[str, Any]

DATA = "data"
"""The name of the variable that stands for rows."""

# Klambauer et al. 2017, "Self-normalizing neural networks". MXNet's derivative of it is too small by up to 0.09 below 0.
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772

# The backward passes of these are those of a training loss and ignore the incoming gradient: operators with the same outputs
# replace them.
_HEADS: dict[str, Callable[[Node], tuple[str, dict[str, str]]]] = {
    "SoftmaxOutput": lambda node: _softmax(node.get("attrs", {})),
    "LinearRegressionOutput": lambda node: ("identity", {}),
    "MAERegressionOutput": lambda node: ("identity", {}),
    "LogisticRegressionOutput": lambda node: ("sigmoid", {}),
    "SVMOutput": lambda node: ("identity", {}),
    "MakeLoss": lambda node: ("identity", {}),
    "make_loss": lambda node: ("identity", {}),
}

# The backward passes of these return zeros in place of a missing gradient. Rounding and signs have one, and it is zero.
_BLOCKING = frozenset({"BlockGrad", "stop_gradient", "argmax", "argmin", "argsort", "argmax_channel", "one_hot", "shape_array",
                       "size_array", "zeros_like", "ones_like", "_zeros_like", "_ones_like"})  # fmt: skip
_COMPARING = ("_greater", "_lesser", "_equal", "_not_equal", "broadcast_greater", "broadcast_lesser", "broadcast_equal",
              "broadcast_not_equal", "_logical", "broadcast_logical", "logical_not")  # fmt: skip


def variable() -> Any:
    """The variable that stands for rows while a block is traced."""
    return mx.sym.var(DATA)


def repaired(symbols: Sequence[Any]) -> list[Any]:
    """Repairs the gradients of symbols of one graph: see `_HEADS` and `SELU_SCALE`."""

    def repair(node: Node) -> list[Node]:
        name, inputs, attrs = node["name"], node["inputs"], node.get("attrs", {})
        if node["op"] in _HEADS:
            op, changed = _HEADS[node["op"]](node)
            return [{"op": op, "name": name, "attrs": changed, "inputs": inputs[:1]}]
        if node["op"] == "LeakyReLU" and attrs.get("act_type") == "selu":
            elu = {"op": "LeakyReLU", "name": f"{name}_elu", "attrs": {"act_type": "elu", "slope": str(SELU_ALPHA)}}
            return [{**elu, "inputs": inputs}, {"op": "_mul_scalar", "name": name, "attrs": {"scalar": str(SELU_SCALE)}}]
        return [node]

    return _rewritten(symbols, repair)


def without_recurrent_dropout(symbols: Sequence[Any]) -> list[Any]:
    """Removes the dropout between recurrent layers from symbols of one graph.

    In evaluation their outputs stay the same, and only without dropout are their gradients right there.
    """

    def drop_nothing(node: Node) -> list[Node]:
        return [{**node, "attrs": {**node["attrs"], "p": "0"}}] if node["op"] == "RNN" else [node]

    return _rewritten(symbols, drop_nothing)


def operators(symbol: Any) -> list[Node]:
    """The nodes of a graph that compute something."""
    return [node for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]


def has_recurrent_dropout(symbol: Any) -> bool:
    """True if a graph has dropout between recurrent layers."""
    return any(node["op"] == "RNN" and float(node["attrs"].get("p", 0)) > 0 for node in operators(symbol))


def differentiable(symbol: Any, name: str = DATA) -> bool:
    """True if a path of operators with gradients leads from the symbol back to the variable."""
    graph = json.loads(symbol.tojson())
    nodes, waiting, seen = graph["nodes"], [head[0] for head in graph["heads"]], set()
    while waiting:
        index = waiting.pop()
        if index in seen:
            continue
        seen.add(index)
        node = nodes[index]
        if node["op"] == "null" and node["name"] == name:
            return True
        if not _blocks(node):
            waiting += [entry[0] for entry in node["inputs"]]
    return False


def _blocks(node: Node) -> bool:
    cast = node["op"] in ("Cast", "cast") and "float" not in node["attrs"]["dtype"]
    return cast or node["op"] in _BLOCKING or node["op"].startswith(_COMPARING)


def _softmax(attrs: dict[str, str]) -> tuple[str, dict[str, str]]:
    return "softmax", {"axis": "1" if attrs.get("multi_output") in ("True", "1", "true") else "-1"}


def _rewritten(symbols: Sequence[Any], rule: Callable[[Node], list[Node]]) -> list[Any]:
    """Replaces each operator by a chain: the first names its inputs, the others take the output of the one before."""
    graph = json.loads(mx.sym.Group(list(symbols)).tojson())
    place: list[int] = []
    nodes: list[Node] = []
    for node in graph["nodes"]:
        node["inputs"] = [[place[index], *rest] for index, *rest in node["inputs"]]
        if "control_deps" in node:
            node["control_deps"] = [place[index] for index in node["control_deps"]]
        for made in [node] if node["op"] == "null" else rule(node):
            made.setdefault("inputs", [[len(nodes) - 1, 0, 0]])
            nodes.append(made)
        place.append(len(nodes) - 1)
    heads = [[place[index], *rest] for index, *rest in graph["heads"]]
    arguments = [index for index, node in enumerate(nodes) if node["op"] == "null"]
    text = json.dumps({"nodes": nodes, "arg_nodes": arguments, "heads": heads, "attrs": graph["attrs"]})
    loaded = mx.sym.load_json(text)
    return [loaded[index] for index in range(len(symbols))]
