from gradwire.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REDUCTION_UNSPECIFIED: _ClassVar[Reduction]
    REDUCTION_MEAN: _ClassVar[Reduction]
    REDUCTION_SUM: _ClassVar[Reduction]
    REDUCTION_NONE: _ClassVar[Reduction]

class Answer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANSWER_UNSPECIFIED: _ClassVar[Answer]
    ANSWER_OUTPUTS: _ClassVar[Answer]
    ANSWER_LOGITS: _ClassVar[Answer]
    ANSWER_UNCERTAINTY: _ClassVar[Answer]
    ANSWER_MEMBERS: _ClassVar[Answer]
REDUCTION_UNSPECIFIED: Reduction
REDUCTION_MEAN: Reduction
REDUCTION_SUM: Reduction
REDUCTION_NONE: Reduction
ANSWER_UNSPECIFIED: Answer
ANSWER_OUTPUTS: Answer
ANSWER_LOGITS: Answer
ANSWER_UNCERTAINTY: Answer
ANSWER_MEMBERS: Answer

class CallHeader(_message.Message):
    __slots__ = ("model", "request_id", "timeout_s", "traceparent", "result_codec", "attempt")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    RESULT_CODEC_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    model: str
    request_id: str
    timeout_s: float
    traceparent: str
    result_codec: _tensor_pb2.Codec
    attempt: int
    def __init__(self, model: _Optional[str] = ..., request_id: _Optional[str] = ..., timeout_s: _Optional[float] = ..., traceparent: _Optional[str] = ..., result_codec: _Optional[_Union[_tensor_pb2.Codec, str]] = ..., attempt: _Optional[int] = ...) -> None: ...

class RowOptions(_message.Message):
    __slots__ = ("batch_size", "training_mode", "standardisation")
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    TRAINING_MODE_FIELD_NUMBER: _ClassVar[int]
    STANDARDISATION_FIELD_NUMBER: _ClassVar[int]
    batch_size: int
    training_mode: bool
    standardisation: Standardisation
    def __init__(self, batch_size: _Optional[int] = ..., training_mode: bool = ..., standardisation: _Optional[_Union[Standardisation, _Mapping]] = ...) -> None: ...

class Standardisation(_message.Message):
    __slots__ = ("mean", "std")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    mean: _tensor_pb2.Tensor
    std: _tensor_pb2.Tensor
    def __init__(self, mean: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., std: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "index")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    name: str
    index: int
    def __init__(self, name: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...

class PredictOpen(_message.Message):
    __slots__ = ("call", "options", "answer")
    CALL_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    call: CallHeader
    options: RowOptions
    answer: Answer
    def __init__(self, call: _Optional[_Union[CallHeader, _Mapping]] = ..., options: _Optional[_Union[RowOptions, _Mapping]] = ..., answer: _Optional[_Union[Answer, str]] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("open", "tensors", "chunk")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    open: PredictOpen
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, open: _Optional[_Union[PredictOpen, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("tensors", "chunk")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class LossOpen(_message.Message):
    __slots__ = ("call", "options", "reduction")
    CALL_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    call: CallHeader
    options: RowOptions
    reduction: Reduction
    def __init__(self, call: _Optional[_Union[CallHeader, _Mapping]] = ..., options: _Optional[_Union[RowOptions, _Mapping]] = ..., reduction: _Optional[_Union[Reduction, str]] = ...) -> None: ...

class LossRequest(_message.Message):
    __slots__ = ("open", "tensors", "chunk")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    open: LossOpen
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, open: _Optional[_Union[LossOpen, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class LossResponse(_message.Message):
    __slots__ = ("tensors", "chunk")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class LossGradientOpen(_message.Message):
    __slots__ = ("call", "options")
    CALL_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    call: CallHeader
    options: RowOptions
    def __init__(self, call: _Optional[_Union[CallHeader, _Mapping]] = ..., options: _Optional[_Union[RowOptions, _Mapping]] = ...) -> None: ...

class LossGradientRequest(_message.Message):
    __slots__ = ("open", "tensors", "chunk")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    open: LossGradientOpen
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, open: _Optional[_Union[LossGradientOpen, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class LossGradientResponse(_message.Message):
    __slots__ = ("tensors", "chunk")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class ClassGradientOpen(_message.Message):
    __slots__ = ("call", "options", "label")
    CALL_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    call: CallHeader
    options: RowOptions
    label: int
    def __init__(self, call: _Optional[_Union[CallHeader, _Mapping]] = ..., options: _Optional[_Union[RowOptions, _Mapping]] = ..., label: _Optional[int] = ...) -> None: ...

class ClassGradientRequest(_message.Message):
    __slots__ = ("open", "tensors", "chunk")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    open: ClassGradientOpen
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, open: _Optional[_Union[ClassGradientOpen, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class ClassGradientResponse(_message.Message):
    __slots__ = ("tensors", "chunk")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class GetActivationsOpen(_message.Message):
    __slots__ = ("call", "options", "layer")
    CALL_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    call: CallHeader
    options: RowOptions
    layer: Layer
    def __init__(self, call: _Optional[_Union[CallHeader, _Mapping]] = ..., options: _Optional[_Union[RowOptions, _Mapping]] = ..., layer: _Optional[_Union[Layer, _Mapping]] = ...) -> None: ...

class GetActivationsRequest(_message.Message):
    __slots__ = ("open", "tensors", "chunk")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    open: GetActivationsOpen
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, open: _Optional[_Union[GetActivationsOpen, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class GetActivationsResponse(_message.Message):
    __slots__ = ("tensors", "chunk")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class VectorJacobianProductOpen(_message.Message):
    __slots__ = ("call", "options", "layer")
    CALL_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    call: CallHeader
    options: RowOptions
    layer: Layer
    def __init__(self, call: _Optional[_Union[CallHeader, _Mapping]] = ..., options: _Optional[_Union[RowOptions, _Mapping]] = ..., layer: _Optional[_Union[Layer, _Mapping]] = ...) -> None: ...

class VectorJacobianProductRequest(_message.Message):
    __slots__ = ("open", "tensors", "chunk")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    open: VectorJacobianProductOpen
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, open: _Optional[_Union[VectorJacobianProductOpen, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class VectorJacobianProductResponse(_message.Message):
    __slots__ = ("tensors", "chunk")
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    def __init__(self, tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ...) -> None: ...

class FitOpen(_message.Message):
    __slots__ = ("call", "batch_size", "nb_epochs", "drop_last", "inference_mode", "seed", "batches")
    CALL_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    NB_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    DROP_LAST_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_MODE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    call: CallHeader
    batch_size: int
    nb_epochs: int
    drop_last: bool
    inference_mode: bool
    seed: int
    batches: bool
    def __init__(self, call: _Optional[_Union[CallHeader, _Mapping]] = ..., batch_size: _Optional[int] = ..., nb_epochs: _Optional[int] = ..., drop_last: bool = ..., inference_mode: bool = ..., seed: _Optional[int] = ..., batches: bool = ...) -> None: ...

class FitRequest(_message.Message):
    __slots__ = ("open", "tensors", "chunk", "end")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    open: FitOpen
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    chunk: _tensor_pb2.TensorChunk
    end: bool
    def __init__(self, open: _Optional[_Union[FitOpen, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., chunk: _Optional[_Union[_tensor_pb2.TensorChunk, _Mapping]] = ..., end: bool = ...) -> None: ...

class FitProgress(_message.Message):
    __slots__ = ("epoch", "nb_epochs", "batch", "nb_batches", "loss")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NB_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    NB_BATCHES_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    nb_epochs: int
    batch: int
    nb_batches: int
    loss: float
    def __init__(self, epoch: _Optional[int] = ..., nb_epochs: _Optional[int] = ..., batch: _Optional[int] = ..., nb_batches: _Optional[int] = ..., loss: _Optional[float] = ...) -> None: ...

class FitResponse(_message.Message):
    __slots__ = ("progress", "version")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    progress: FitProgress
    version: str
    def __init__(self, progress: _Optional[_Union[FitProgress, _Mapping]] = ..., version: _Optional[str] = ...) -> None: ...
