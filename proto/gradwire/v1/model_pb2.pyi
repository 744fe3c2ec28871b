import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from gradwire.v1 import estimator_pb2 as _estimator_pb2
from gradwire.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_UNSPECIFIED: _ClassVar[Operation]
    OPERATION_PREDICT: _ClassVar[Operation]
    OPERATION_LOSS: _ClassVar[Operation]
    OPERATION_LOSS_GRADIENT: _ClassVar[Operation]
    OPERATION_CLASS_GRADIENT: _ClassVar[Operation]
    OPERATION_GET_ACTIVATIONS: _ClassVar[Operation]
    OPERATION_VECTOR_JACOBIAN_PRODUCT: _ClassVar[Operation]
    OPERATION_FIT: _ClassVar[Operation]
    OPERATION_FIT_BATCHES: _ClassVar[Operation]
    OPERATION_VERSIONS: _ClassVar[Operation]
    OPERATION_CLONE: _ClassVar[Operation]

class Access(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACCESS_UNSPECIFIED: _ClassVar[Access]
    ACCESS_LABELS: _ClassVar[Access]
    ACCESS_SCORES: _ClassVar[Access]
    ACCESS_GRADIENTS: _ClassVar[Access]
    ACCESS_TRAINER: _ClassVar[Access]

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_CLASSIFICATION: _ClassVar[Task]
    TASK_REGRESSION: _ClassVar[Task]

class OutputKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTPUT_KIND_UNSPECIFIED: _ClassVar[OutputKind]
    OUTPUT_KIND_LOGITS: _ClassVar[OutputKind]
    OUTPUT_KIND_PROBABILITIES: _ClassVar[OutputKind]
    OUTPUT_KIND_LABELS: _ClassVar[OutputKind]
    OUTPUT_KIND_VALUES: _ClassVar[OutputKind]
OPERATION_UNSPECIFIED: Operation
OPERATION_PREDICT: Operation
OPERATION_LOSS: Operation
OPERATION_LOSS_GRADIENT: Operation
OPERATION_CLASS_GRADIENT: Operation
OPERATION_GET_ACTIVATIONS: Operation
OPERATION_VECTOR_JACOBIAN_PRODUCT: Operation
OPERATION_FIT: Operation
OPERATION_FIT_BATCHES: Operation
OPERATION_VERSIONS: Operation
OPERATION_CLONE: Operation
ACCESS_UNSPECIFIED: Access
ACCESS_LABELS: Access
ACCESS_SCORES: Access
ACCESS_GRADIENTS: Access
ACCESS_TRAINER: Access
TASK_UNSPECIFIED: Task
TASK_CLASSIFICATION: Task
TASK_REGRESSION: Task
OUTPUT_KIND_UNSPECIFIED: OutputKind
OUTPUT_KIND_LOGITS: OutputKind
OUTPUT_KIND_PROBABILITIES: OutputKind
OUTPUT_KIND_LABELS: OutputKind
OUTPUT_KIND_VALUES: OutputKind

class ModelCard(_message.Message):
    __slots__ = ("name", "backend", "task", "input_shape", "input_dtype", "output_shape", "output_dtype", "nb_classes", "output_kind", "clip_min", "clip_max", "channels_first", "layer_names", "access", "operations", "loss_reduction", "loss", "version", "device", "device_uuid", "notes", "preprocessing_mean", "preprocessing_std", "preprocessing_defences", "postprocessing_defences", "codecs", "limits", "coalesce", "clone_of", "answers")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    INPUT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    INPUT_DTYPE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_DTYPE_FIELD_NUMBER: _ClassVar[int]
    NB_CLASSES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_KIND_FIELD_NUMBER: _ClassVar[int]
    CLIP_MIN_FIELD_NUMBER: _ClassVar[int]
    CLIP_MAX_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIRST_FIELD_NUMBER: _ClassVar[int]
    LAYER_NAMES_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    LOSS_REDUCTION_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_UUID_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_MEAN_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_STD_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_DEFENCES_FIELD_NUMBER: _ClassVar[int]
    POSTPROCESSING_DEFENCES_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    COALESCE_FIELD_NUMBER: _ClassVar[int]
    CLONE_OF_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    backend: str
    task: Task
    input_shape: _containers.RepeatedScalarFieldContainer[int]
    input_dtype: _tensor_pb2.Dtype
    output_shape: _containers.RepeatedScalarFieldContainer[int]
    output_dtype: _tensor_pb2.Dtype
    nb_classes: int
    output_kind: OutputKind
    clip_min: _tensor_pb2.Tensor
    clip_max: _tensor_pb2.Tensor
    channels_first: bool
    layer_names: _containers.RepeatedScalarFieldContainer[str]
    access: Access
    operations: _containers.RepeatedScalarFieldContainer[Operation]
    loss_reduction: str
    loss: str
    version: str
    device: str
    device_uuid: str
    notes: _containers.RepeatedScalarFieldContainer[str]
    preprocessing_mean: _tensor_pb2.Tensor
    preprocessing_std: _tensor_pb2.Tensor
    preprocessing_defences: _containers.RepeatedScalarFieldContainer[str]
    postprocessing_defences: _containers.RepeatedScalarFieldContainer[str]
    codecs: _containers.RepeatedScalarFieldContainer[_tensor_pb2.Codec]
    limits: CallLimits
    coalesce: bool
    clone_of: str
    answers: _containers.RepeatedScalarFieldContainer[_estimator_pb2.Answer]
    def __init__(self, name: _Optional[str] = ..., backend: _Optional[str] = ..., task: _Optional[_Union[Task, str]] = ..., input_shape: _Optional[_Iterable[int]] = ..., input_dtype: _Optional[_Union[_tensor_pb2.Dtype, str]] = ..., output_shape: _Optional[_Iterable[int]] = ..., output_dtype: _Optional[_Union[_tensor_pb2.Dtype, str]] = ..., nb_classes: _Optional[int] = ..., output_kind: _Optional[_Union[OutputKind, str]] = ..., clip_min: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., clip_max: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., channels_first: bool = ..., layer_names: _Optional[_Iterable[str]] = ..., access: _Optional[_Union[Access, str]] = ..., operations: _Optional[_Iterable[_Union[Operation, str]]] = ..., loss_reduction: _Optional[str] = ..., loss: _Optional[str] = ..., version: _Optional[str] = ..., device: _Optional[str] = ..., device_uuid: _Optional[str] = ..., notes: _Optional[_Iterable[str]] = ..., preprocessing_mean: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., preprocessing_std: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., preprocessing_defences: _Optional[_Iterable[str]] = ..., postprocessing_defences: _Optional[_Iterable[str]] = ..., codecs: _Optional[_Iterable[_Union[_tensor_pb2.Codec, str]]] = ..., limits: _Optional[_Union[CallLimits, _Mapping]] = ..., coalesce: bool = ..., clone_of: _Optional[str] = ..., answers: _Optional[_Iterable[_Union[_estimator_pb2.Answer, str]]] = ...) -> None: ...

class CallLimits(_message.Message):
    __slots__ = ("max_tensor_bytes", "max_held_bytes", "max_batch_rows", "max_message_data_bytes")
    MAX_TENSOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_DATA_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_tensor_bytes: int
    max_held_bytes: int
    max_batch_rows: int
    max_message_data_bytes: int
    def __init__(self, max_tensor_bytes: _Optional[int] = ..., max_held_bytes: _Optional[int] = ..., max_batch_rows: _Optional[int] = ..., max_message_data_bytes: _Optional[int] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("name", "created", "nbytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    created: _timestamp_pb2.Timestamp
    nbytes: int
    def __init__(self, name: _Optional[str] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., nbytes: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelCard]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelCard, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: ModelCard
    def __init__(self, model: _Optional[_Union[ModelCard, _Mapping]] = ...) -> None: ...

class SaveVersionRequest(_message.Message):
    __slots__ = ("model", "version", "overwrite")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    overwrite: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., overwrite: bool = ...) -> None: ...

class SaveVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class ListVersionsRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ListVersionsResponse(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class RestoreVersionRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class RestoreVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class ResetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ResetModelResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class CloneModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class CloneModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: ModelCard
    def __init__(self, model: _Optional[_Union[ModelCard, _Mapping]] = ...) -> None: ...

class DeleteCloneRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class DeleteCloneResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
