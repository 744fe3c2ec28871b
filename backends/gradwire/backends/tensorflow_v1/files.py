"""Graphs of TensorFlow 1 from files: SavedModels, and meta graphs with checkpoints.

Reading one unpickles nothing. A graph is a program all the same: its operations may read and write files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorflow as tf
from pydantic import BaseModel, ConfigDict

from gradwire.backends.errors import ModelConfigError, Unsupported
from gradwire.backends.tensorflow_v1.graph import Graph


class Tensors(BaseModel):
    """Names of tensors (and of the operation ``train``) in a graph that is read from files; see `Graph`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str | None = None
    """Of a SavedModel, also a name that its signature has for it; its only input if not said."""
    output: str | None = None
    """As ``input``."""
    labels: str | None = None
    loss: str | None = None
    train: str | None = None
    learning: str | None = None


def saved_model(path: Path, tags: list[str], signature: str, tensors: Tensors, device: str) -> Graph:
    """A graph and its weights from a SavedModel's folder. Raises ModelConfigError."""
    if not (path / "saved_model.pb").is_file():
        raise ModelConfigError("saved_model", f"{path} has no saved_model.pb; expected the folder of a SavedModel")
    session = _session(device)
    with session.graph.as_default(), session.graph.device(_placed(device)):
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
            "signature", f"there is no {signature!r} in {path}; there are: {there}. Or name input and output in tensors"
        )
    return _graph(session, tensors, {part: _of_signature(part, getattr(tensors, part), names) for part, names in named.items()})


def meta_graph(path: Path, checkpoint: Path, tensors: Tensors, device: str) -> Graph:
    """A graph from a meta graph and its weights from a checkpoint. Raises ModelConfigError."""
    if not path.is_file():
        raise ModelConfigError("meta_graph", f"{path} is not there; expected the .meta file of a checkpoint")
    prefix = tf.train.latest_checkpoint(str(checkpoint)) if checkpoint.is_dir() else str(checkpoint)
    if prefix is None or not tf.compat.v1.train.checkpoint_exists(prefix):
        raise ModelConfigError(
            "checkpoint", f"{checkpoint} is not there; expected what Saver.save returned, or the folder it is in"
        )
    for part in ("input", "output"):
        if getattr(tensors, part) is None:
            raise ModelConfigError("tensors", f"{part} is missing; a meta graph does not tell it. Expected a tensor's name")
    session = _session(device)
    with session.graph.as_default(), session.graph.device(_placed(device)):
        try:
            saver = tf.compat.v1.train.import_meta_graph(str(path), clear_devices=True)
        except (RuntimeError, ValueError, OSError, tf.errors.OpError) as e:
            raise ModelConfigError("meta_graph", f"{path} cannot be read: {e}") from e
        if saver is None:
            raise ModelConfigError(
                "meta_graph", f"{path} has no saver, by which a checkpoint is restored; expected what Saver.save wrote"
            )
        try:
            saver.restore(session, prefix)
        except (ValueError, tf.errors.OpError) as e:
            raise ModelConfigError("checkpoint", f"{prefix} does not fit {path}: {e}") from e
    return _graph(session, tensors, {})


def can_start_anew(session: Any) -> bool:
    """Whether a graph from files says how its variables begin."""
    return bool(session.graph.get_collection(tf.compat.v1.GraphKeys.GLOBAL_VARIABLES))


def start_anew(session: Any) -> None:
    """Gives the variables of a graph from files the values that they began with. Raises Unsupported."""
    with session.graph.as_default():
        try:
            session.run(tf.compat.v1.global_variables_initializer())
        except (ValueError, tf.errors.OpError) as e:
            raise Unsupported(f"the graph's variables cannot be initialised anew: {e}") from e


def _session(device: str) -> Any:
    if device == "cpu":
        config = tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    else:
        here = len(tf.config.list_physical_devices("GPU"))
        if _index(device) >= here:
            raise ModelConfigError("device", f"{device} is not here; TensorFlow sees {here} GPU(s), and cpu")
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        # Without it the first session takes all of the GPU's memory.
        config.gpu_options.allow_growth = True
    return tf.compat.v1.Session(graph=tf.Graph(), config=config)


def _placed(device: str) -> str | None:
    return None if device == "cpu" else f"/device:GPU:{_index(device)}"


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


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
