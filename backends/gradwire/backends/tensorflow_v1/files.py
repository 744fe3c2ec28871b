"""Graphs of TensorFlow 1 from files: SavedModels, and meta graphs with checkpoints.

Reading one unpickles nothing. A graph is a program all the same: its operations may read and write files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from pydantic import BaseModel, ConfigDict

from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.tensorflow_v1.device import placement, session_on
from gradwire.backends.tensorflow_v1.graph import Graph


class Tensors(BaseModel):
    """Names of tensors, and of the operation ``train``, in a graph that is read from files; see `Graph`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str | None = None
    """For a SavedModel, also a name from its signature; by default its only input."""
    output: str | None = None
    """The same for the output."""
    labels: str | None = None
    loss: str | None = None
    train: str | None = None
    learning: str | None = None


def saved_model(path: Path, tags: list[str], signature: str, tensors: Tensors, device: str) -> Graph:
    """Reads a graph and its weights from a SavedModel's folder. Raises ModelConfigError."""
    if not (path / "saved_model.pb").is_file():
        raise ModelConfigError("saved_model", f"{path} has no saved_model.pb; expected the folder of a SavedModel")
    session = session_on(device)
    with session.graph.as_default(), session.graph.device(placement(device)):
        try:
            meta = tf.compat.v1.saved_model.load(session, tags, str(path), clear_devices=True)
        except (RuntimeError, ValueError, OSError, tf.errors.OpError) as e:
            raise ModelConfigError("saved_model", f"{path} with the tags {tags} cannot be loaded: {e}") from e
    found = meta.signature_def.get(signature)
    named: dict[str, dict[str, str]] = {"input": {}, "output": {}}
    if found is not None:
        named["input"] = {name: tensor.name for name, tensor in found.inputs.items()}
        named["output"] = {name: tensor.name for name, tensor in found.outputs.items()}
    elif tensors.input is None or tensors.output is None:
        there = ", ".join(sorted(meta.signature_def)) or "none"
        raise ModelConfigError(
            "signature", f"{path} has no signature {signature!r}; its signatures: {there}. Or name input and output in tensors"
        )
    return _graph(session, tensors, {part: _of_signature(part, getattr(tensors, part), names) for part, names in named.items()})


def meta_graph(path: Path, checkpoint: Path, tensors: Tensors, device: str) -> Graph:
    """Reads a graph from a meta graph, and its weights from a checkpoint. Raises ModelConfigError."""
    if not path.is_file():
        raise ModelConfigError("meta_graph", f"{path} does not exist; expected the .meta file of a checkpoint")
    prefix = tf.train.latest_checkpoint(str(checkpoint)) if checkpoint.is_dir() else str(checkpoint)
    if prefix is None or not tf.compat.v1.train.checkpoint_exists(prefix):
        raise ModelConfigError(
            "checkpoint", f"{checkpoint} does not exist; expected the path that Saver.save returned, or its folder"
        )
    for part in ("input", "output"):
        if getattr(tensors, part) is None:
            raise ModelConfigError("tensors", f"{part} is missing; a meta graph needs it. Expected a tensor's name")
    session = session_on(device)
    with session.graph.as_default(), session.graph.device(placement(device)):
        try:
            saver = tf.compat.v1.train.import_meta_graph(str(path), clear_devices=True)
        except (RuntimeError, ValueError, OSError, tf.errors.OpError) as e:
            raise ModelConfigError("meta_graph", f"{path} cannot be read: {e}") from e
        if saver is None:
            raise ModelConfigError(
                "meta_graph", f"{path} has no saver, which restores a checkpoint; expected a file that Saver.save wrote"
            )
        try:
            saver.restore(session, prefix)
        except (ValueError, tf.errors.OpError) as e:
            raise ModelConfigError("checkpoint", f"{prefix} does not fit {path}: {e}") from e
    return _graph(session, tensors, {})


def can_initialise(session: Any) -> bool:
    """True if a graph from files holds the initial values of its variables."""
    return bool(session.graph.get_collection(tf.compat.v1.GraphKeys.GLOBAL_VARIABLES))


def initialise(session: Any) -> None:
    """Resets the variables of a graph from files to their initial values. Raises Unsupported."""
    with session.graph.as_default():
        try:
            session.run(tf.compat.v1.global_variables_initializer())
        except (ValueError, tf.errors.OpError) as e:
            raise Unsupported(f"the graph's variables cannot be initialised again: {e}") from e


def _of_signature(part: str, given: str | None, names: dict[str, str]) -> str:
    if given is not None:
        return names.get(given, given)
    if len(names) != 1:
        raise ModelConfigError(
            "tensors", f"{part} is missing; the signature has several: {', '.join(sorted(names))}. Expected one of them"
        )
    return next(iter(names.values()))


def _graph(session: Any, tensors: Tensors, found: dict[str, str]) -> Graph:
    return Graph(session=session, **{**tensors.model_dump(), **found})
