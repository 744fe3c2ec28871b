"""Card of a served name: the facts that a caller needs to use it, within its access."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire.backends.backend import Array, Model
from gradwire.backends.config import ModelConfig
from gradwire.server.catalogue.admitted import Admitted
from gradwire.server.config.limits import Limits
from gradwire.server.values.contract import ANSWERS, CONTRACT, OPERATIONS
from gradwire.v1 import model_pb2 as pb
from gradwire.v1.tensor_pb2 import Tensor
from gradwire.wire.codecs import CODINGS
from gradwire.wire.dtypes import to_contract
from gradwire.wire.frames import CHUNK_NBYTES
from gradwire.wire.names import OUTPUT_KINDS, TASKS
from gradwire.wire.tensors import elements, raw


def operations(admitted: Admitted) -> list[pb.Operation]:
    """Operations that a caller may use, in the contract's order."""
    return sorted(OPERATIONS[operation] for operation in admitted.operations)


def card(admitted: Admitted, limits: Limits) -> pb.ModelCard:
    """Makes the card of a served name for its caller."""
    estimator, config, model = admitted.estimator, admitted.estimator.config, admitted.estimator.model
    result = pb.ModelCard(
        name=admitted.name,
        backend=config.backend,
        task=TASKS[config.task],
        input_shape=config.input_shape,
        input_dtype=to_contract(np.dtype(model.input_dtype)),
        output_shape=[config.nb_classes] if admitted.labels_only else estimator.output_shape,
        output_dtype=to_contract(np.dtype(np.float32) if admitted.labels_only else estimator.output_dtype),
        nb_classes=config.nb_classes,
        output_kind=pb.OUTPUT_KIND_LABELS if admitted.labels_only else OUTPUT_KINDS[model.output_kind],
        access=CONTRACT[admitted.access],
        operations=operations(admitted),
        answers=sorted(ANSWERS[answer] for answer in admitted.answers),
        version=estimator.version,
        device=model.device,
        # The UUID of a GPU shows its host, and the other processes there.
        device_uuid=device_uuid(model) if admitted.white_box else "",
        limits=pb.CallLimits(
            max_tensor_bytes=limits.max_tensor_bytes,
            max_held_bytes=limits.max_held_bytes,
            max_batch_rows=config.max_batch_rows,
            max_message_data_bytes=CHUNK_NBYTES,
        ),
        codecs=sorted(CODINGS),
        coalesce=estimator.coalesces,
        clone_of=admitted.served.clone_of,
    )
    if config.channels_first is not None:
        result.channels_first = config.channels_first
    if config.clip_values is not None:
        low, high = (np.asarray(bound, np.float32) for bound in config.clip_values)
        result.clip_min.CopyFrom(_tensor("clip_min", low))
        result.clip_max.CopyFrom(_tensor("clip_max", high))
    if admitted.white_box:
        if admitted.sees_layers:
            result.layer_names.extend(model.layer_names)
        result.loss = model.loss_name
        result.loss_reduction = model.loss_reduction
        result.notes.extend(model.notes)
        if admitted.served.fixed:
            result.notes.append(f"weights are fixed: {admitted.served.fixed}")
        result.notes.extend(
            f"{operation} of rows {shape} is computed {rows} rows at once: more do not fit into the device's memory"
            for (operation, shape), rows in estimator.room.copy().items()
        )
        _describe_defences(result, config, estimator.preprocessing.standardisation)
    return result


def _describe_defences(result: pb.ModelCard, config: ModelConfig, standardisation: Any) -> None:
    if standardisation is not None:
        result.preprocessing_mean.CopyFrom(_tensor("mean", np.asarray(standardisation.mean)))
        result.preprocessing_std.CopyFrom(_tensor("std", np.asarray(standardisation.std)))
    result.preprocessing_defences.extend(spec.path for spec in config.preprocessing_defences)
    result.postprocessing_defences.extend(spec.path for spec in config.postprocessing_defences)


def _tensor(name: str, array: Array) -> Tensor:
    array, value = elements(array)
    return Tensor(name=name, dtype=value, shape=array.shape, nbytes=array.nbytes, data=bytes(raw(array)))


def device_uuid(model: Model) -> str:
    """UUID of a model's device; empty if the device has none or the backend does not give it."""
    return str(getattr(model, "device_uuid", ""))
