"""Model cards: a model's description and the access that this caller has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire.v1 import model_pb2 as pb
from gradwire.v1.tensor_pb2 import Tensor
from gradwire.wire.codecs import CODINGS, name_of
from gradwire.wire.dtypes import to_numpy
from gradwire.wire.names import ACCESS_NAMES, ANSWER_NAMES, OPERATION_NAMES, OUTPUT_KIND_NAMES, TASK_NAMES, name_in
from gradwire.wire.tensors import Array, inline, spec_of


@dataclass(frozen=True)
class Limits:
    """The server's limits on one call, in bytes and rows; 0: no limit."""

    max_tensor_bytes: int
    max_held_bytes: int
    max_batch_rows: int


@dataclass(frozen=True)
class ModelCard:
    """The card of a served name, as this caller sees it.

    Attributes:
        name: The served name.
        backend: The model's framework.
        task: "classification" or "regression".
        input_shape: Sizes of a row's axes; -1 where any size is taken.
        input_dtype: The dtype that the model computes in.
        output_shape: Sizes of an output row's axes.
        output_dtype: The dtype of predictions.
        nb_classes: The number of classes.
        output_kind: "logits", "probabilities", "labels" (one-hot) or "values".
        clip_values: Least and greatest input values, float32; None if inputs are unbounded.
        channels_first: True if images have their channels first; None if the owner has not set it.
        layer_names: Names of the layers, in the order of their indices.
        access: "labels", "scores", "gradients" or "trainer".
        operations: Names of the estimator's methods that this caller may use.
        loss: The name of the model's own loss.
        loss_reduction: "mean" or "sum": the reduction of that loss over rows.
        version: The version of the weights when the card was made.
        device: The model's device.
        notes: Remarks of the server about the model's answers.
        preprocessing: The server's (mean, std), if it discloses them.
        preprocessing_defences: Names of the defences.
        postprocessing_defences: Names of the defences.
        clone_of: For a clone, the name it was made from.
        limits: The server's limits on one call.
        answers: What the model can answer: "outputs", "logits", "members" (``raw``), "uncertainty" (`predict_uncertainty`).
        coalesce: Whether the server may compute rows of several calls together.
        codecs: Codecs that `RemoteEstimator.with_codecs` accepts.
        device_uuid: The device's UUID, if it has one and the server discloses it.
    """

    name: str
    backend: str
    task: str
    input_shape: tuple[int, ...]
    input_dtype: np.dtype[Any]
    output_shape: tuple[int, ...]
    output_dtype: np.dtype[Any]
    nb_classes: int
    output_kind: str
    clip_values: tuple[Array, Array] | None
    channels_first: bool | None
    layer_names: tuple[str, ...]
    access: str
    operations: frozenset[str]
    loss: str
    loss_reduction: str
    version: str
    device: str
    notes: tuple[str, ...]
    preprocessing: tuple[Array, Array] | None
    preprocessing_defences: tuple[str, ...]
    postprocessing_defences: tuple[str, ...]
    clone_of: str
    limits: Limits
    answers: frozenset[str] = frozenset({"outputs"})
    coalesce: bool = False
    codecs: frozenset[str] = frozenset()
    device_uuid: str = ""


def card_of(message: pb.ModelCard) -> ModelCard:
    """Reads the card that a server sent."""
    return ModelCard(
        name=message.name,
        backend=message.backend,
        task=name_in(TASK_NAMES, message.task),
        input_shape=tuple(message.input_shape),
        input_dtype=to_numpy(message.input_dtype),
        output_shape=tuple(message.output_shape),
        output_dtype=to_numpy(message.output_dtype),
        nb_classes=message.nb_classes,
        output_kind=name_in(OUTPUT_KIND_NAMES, message.output_kind),
        clip_values=(_array(message.clip_min), _array(message.clip_max)) if message.HasField("clip_min") else None,
        channels_first=message.channels_first if message.HasField("channels_first") else None,
        layer_names=tuple(message.layer_names),
        access=name_in(ACCESS_NAMES, message.access),
        # Operations that this client does not know are left out.
        operations=frozenset(OPERATION_NAMES[o] for o in message.operations if o in OPERATION_NAMES),
        loss=message.loss,
        loss_reduction=message.loss_reduction,
        version=message.version,
        device=message.device,
        device_uuid=message.device_uuid,
        notes=tuple(message.notes),
        preprocessing=(_array(message.preprocessing_mean), _array(message.preprocessing_std))
        if message.HasField("preprocessing_mean")
        else None,
        preprocessing_defences=tuple(message.preprocessing_defences),
        postprocessing_defences=tuple(message.postprocessing_defences),
        clone_of=message.clone_of,
        coalesce=message.coalesce,
        limits=Limits(message.limits.max_tensor_bytes, message.limits.max_held_bytes, message.limits.max_batch_rows),
        answers=frozenset(ANSWER_NAMES[answer] for answer in message.answers if answer in ANSWER_NAMES),
        codecs=frozenset(name_of(codec) for codec in message.codecs if codec in CODINGS),
    )


def _array(tensor: Tensor) -> Array:
    return inline(tensor.data, spec_of(tensor, 1 << 30))
