"""A TensorFlow 1 graph: the parts that its owner names, and the operations that connect them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from gradwire.backends.errors import ModelConfigError

_PARTS = ("input", "output", "labels", "loss", "learning")
_PLACEHOLDERS = ("Placeholder", "PlaceholderV2")


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph in a session, by the parts that an estimator needs, as a factory returns it.

    Every part is a tensor (or for ``train`` an operation), or its name in the session's graph. The parts are those that
    the TensorFlow 1 classifier of ART 1.19 took.

    Args:
        session: A ``tf.compat.v1.Session`` of a graph of its own, with initialised variables.
        input: Rows ``(None, *input_shape)``.
        output: Outputs ``(None, C)``, or ``(None, 1)`` or ``(None,)`` for a model with one output.
        labels: Class indices ``(None,)`` or rows ``(None, C)``, as the loss takes them; in regression targets.
        loss: The losses of the rows, ``(None,)``; or one number, their mean or their sum.
        train: The operation that a step of training runs.
        learning: Whether layers behave as in training, a scalar placeholder.
        feed_dict: Values of the other placeholders that the graph needs.
        training_feed_dict: Their values in training, where they differ: a dropout rate for example.
    """

    session: Any
    input: Any
    output: Any
    labels: Any = None
    loss: Any = None
    train: Any = None
    learning: Any = None
    feed_dict: Mapping[Any, Any] = field(default_factory=dict)
    training_feed_dict: Mapping[Any, Any] = field(default_factory=dict)


def resolved(graph: Graph, key: str) -> Graph:
    """Replaces the names in a graph by tensors.

    Args:
        graph: The owner's graph.
        key: The configuration key that it comes from, for errors.

    Raises:
        ModelConfigError: A part is missing, or of the wrong kind.
    """
    if not isinstance(graph.session, tf.compat.v1.Session):
        raise ModelConfigError(key, f"session is {type(graph.session).__name__}; expected a tf.compat.v1.Session")
    if graph.session.graph.finalized:
        raise ModelConfigError(key, "the graph is finalized, but operations for gradients must be added to it; do not finalize it")
    found = {part: _tensor(graph, part, getattr(graph, part), key) for part in _PARTS}
    for part in ("input", "output"):
        if found[part] is None:
            raise ModelConfigError(key, f"{part} is None; expected a tensor or its name")
    if found["labels"] is None and (graph.loss is not None or graph.train is not None):
        raise ModelConfigError(key, "loss and train need labels, the placeholder that they take labels from; set it too")
    return dataclasses.replace(
        graph,
        **found,
        train=_operation(graph, key),
        feed_dict=_feeds(graph, "feed_dict", key),
        training_feed_dict=_feeds(graph, "training_feed_dict", key),
    )


def upstream(tensors: Iterable[Any], without: Iterable[Any] = ()) -> set[Any]:
    """The operations that compute tensors (or operations), down to placeholders and variables.

    Args:
        tensors: Where to begin.
        without: Tensors to stop at.
    """
    ends = {tensor.name for tensor in without}
    waiting = [t if isinstance(t, tf.Operation) else t.op for t in tensors if t.name not in ends]
    found: set[Any] = set(waiting)
    while waiting:
        op = waiting.pop()
        for nearer in (*(t.op for t in op.inputs if t.name not in ends), *op.control_inputs):
            if nearer not in found:
                found.add(nearer)
                waiting.append(nearer)
    return found


def downstream(tensor: Any, without: Collection[str] = ()) -> set[Any]:
    """The operations that depend on a tensor, without the one that makes it.

    Args:
        tensor: Where to begin.
        without: Types of operations to leave out, with the operations that depend on the tensor through them alone.
    """
    waiting = [tensor]
    found: set[Any] = set()
    while waiting:
        for op in waiting.pop().consumers():
            if op not in found and op.type not in without:
                found.add(op)
                waiting += op.outputs
    return found


def unfed(tensors: Iterable[Any], fed: Iterable[Any]) -> list[str]:
    """Names of the placeholders that tensors need besides the fed ones."""
    return sorted(op.outputs[0].name for op in upstream(tensors, without=fed) if op.type in _PLACEHOLDERS)


def _tensor(graph: Graph, part: str, given: Any, key: str) -> Any:
    if given is None:
        return None
    name = f"{given}:0" if isinstance(given, str) and ":" not in given else given
    try:
        return graph.session.graph.as_graph_element(name, allow_operation=False)
    except (KeyError, TypeError, ValueError) as e:
        raise ModelConfigError(key, f"{part}: {given!r:.200} is no tensor of the session's graph; {_placeholders(graph)}") from e


def _operation(graph: Graph, key: str) -> Any:
    if graph.train is None:
        return None
    try:
        found = graph.session.graph.as_graph_element(graph.train)
    except (KeyError, TypeError, ValueError) as e:
        raise ModelConfigError(key, f"train: {graph.train!r:.200} is no operation of the session's graph: {e}") from e
    return found if isinstance(found, tf.Operation) else found.op


def _feeds(graph: Graph, part: str, key: str) -> dict[Any, Any]:
    return {_tensor(graph, part, given, key): value for given, value in getattr(graph, part).items()}


def _placeholders(graph: Graph) -> str:
    names = [op.outputs[0].name for op in graph.session.graph.get_operations() if op.type.startswith("Placeholder")]
    return f"its placeholders are {', '.join(names[:10]) or 'none'}"
