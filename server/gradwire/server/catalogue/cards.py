"""The card of a granted name: what a caller needs to know to use it, and nothing beyond its access."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire.backends.backend import Array, Model
from gradwire.backends.config import ModelConfig
from gradwire.server.catalogue.granted import Granted
from gradwire.server.config.limits import Limits
from gradwire.server.values.contract import ANSWERS, CONTRACT, OPERATIONS
from gradwire.v1 import model_pb2 as pb
from gradwire.v1.tensor_pb2 import Tensor
from gradwire.wire.codecs import CODINGS
from gradwire.wire.dtypes import to_contract
from gradwire.wire.frames import CHUNK_NBYTES
from gradwire.wire.names import OUTPUT_KINDS, TASKS
from gradwire.wire.tensors import elements, raw


def operations(granted: Granted) -> list[pb.Operation]:
    """What a caller of the name may do, in the contract's order."""
    return sorted(OPERATIONS[operation] for operation in granted.operations)


def card(granted: Granted, limits: Limits) -> pb.ModelCard:
    """The card that callers of the name get."""
    estimator, config, model = granted.estimator, granted.estimator.config, granted.estimator.model
    result = pb.ModelCard(
        name=granted.name,
        backend=config.backend,
        task=TASKS[config.task],
        input_shape=config.input_shape,
        input_dtype=to_contract(np.dtype(model.input_dtype)),
        output_shape=[config.nb_classes] if granted.labels_only else estimator.output_shape,
        output_dtype=to_contract(np.dtype(np.float32) if granted.labels_only else estimator.output_dtype),
        nb_classes=config.nb_classes,
        output_kind=pb.OUTPUT_KIND_LABELS if granted.labels_only else OUTPUT_KINDS[model.output_kind],
        access=CONTRACT[granted.access],
        operations=operations(granted),
        answers=sorted(ANSWERS[answer] for answer in granted.answers),
        version=estimator.version,
        device=model.device,
        # Which GPU it is says on which host, and what else runs there.
        device_uuid=device_uuid(model) if granted.white_box else "",
        limits=pb.CallLimits(
            max_tensor_bytes=limits.max_tensor_bytes,
            max_held_bytes=limits.max_held_bytes,
            max_batch_rows=config.max_batch_rows,
            max_message_data_bytes=CHUNK_NBYTES,
        ),
        codecs=sorted(CODINGS),
        coalesce=estimator.coalesces,
        clone_of=granted.clone_of,
    )
    if config.channels_first is not None:
        result.channels_first = config.channels_first
    if config.clip_values is not None:
        low, high = (np.asarray(bound, np.float32) for bound in config.clip_values)
        result.clip_min.CopyFrom(_tensor("clip_min", low))
        result.clip_max.CopyFrom(_tensor("clip_max", high))
    if granted.white_box:
        if granted.sees_layers:
            result.layer_names.extend(model.layer_names)
        result.loss = model.loss_name
        result.loss_reduction = model.loss_reduction
        result.notes.extend(model.notes)
        if granted.served.fixed:
            result.notes.append(f"weights stay as they are: {granted.served.fixed}")
        result.notes.extend(
            f"{operation} of rows {shape} is computed {rows} rows at once: the device has no room for more"
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
    """The UUID of the device that a model lies on; empty where there is none, or the backend does not tell."""
    return str(getattr(model, "device_uuid", ""))
