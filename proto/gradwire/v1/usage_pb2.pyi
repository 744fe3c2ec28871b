import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from gradwire.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Rows(_message.Message):
    __slots__ = ("forward", "backward")
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_FIELD_NUMBER: _ClassVar[int]
    forward: int
    backward: int
    def __init__(self, forward: _Optional[int] = ..., backward: _Optional[int] = ...) -> None: ...

class Budget(_message.Message):
    __slots__ = ("max_forward", "max_backward", "left_forward", "left_backward", "refills", "rows_per_s")
    MAX_FORWARD_FIELD_NUMBER: _ClassVar[int]
    MAX_BACKWARD_FIELD_NUMBER: _ClassVar[int]
    LEFT_FORWARD_FIELD_NUMBER: _ClassVar[int]
    LEFT_BACKWARD_FIELD_NUMBER: _ClassVar[int]
    REFILLS_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_S_FIELD_NUMBER: _ClassVar[int]
    max_forward: int
    max_backward: int
    left_forward: int
    left_backward: int
    refills: _timestamp_pb2.Timestamp
    rows_per_s: float
    def __init__(self, max_forward: _Optional[int] = ..., max_backward: _Optional[int] = ..., left_forward: _Optional[int] = ..., left_backward: _Optional[int] = ..., refills: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., rows_per_s: _Optional[float] = ...) -> None: ...

class ModelUsage(_message.Message):
    __slots__ = ("model", "access", "operations", "used", "budget", "expires", "window", "principal")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    model: str
    access: _model_pb2.Access
    operations: _containers.RepeatedScalarFieldContainer[_model_pb2.Operation]
    used: Rows
    budget: Budget
    expires: _timestamp_pb2.Timestamp
    window: Budget
    principal: str
    def __init__(self, model: _Optional[str] = ..., access: _Optional[_Union[_model_pb2.Access, str]] = ..., operations: _Optional[_Iterable[_Union[_model_pb2.Operation, str]]] = ..., used: _Optional[_Union[Rows, _Mapping]] = ..., budget: _Optional[_Union[Budget, _Mapping]] = ..., expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., window: _Optional[_Union[Budget, _Mapping]] = ..., principal: _Optional[str] = ...) -> None: ...

class GetUsageRequest(_message.Message):
    __slots__ = ("model", "principal", "everybody")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    EVERYBODY_FIELD_NUMBER: _ClassVar[int]
    model: str
    principal: str
    everybody: bool
    def __init__(self, model: _Optional[str] = ..., principal: _Optional[str] = ..., everybody: bool = ...) -> None: ...

class GetUsageResponse(_message.Message):
    __slots__ = ("principal", "models")
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    principal: str
    models: _containers.RepeatedCompositeFieldContainer[ModelUsage]
    def __init__(self, principal: _Optional[str] = ..., models: _Optional[_Iterable[_Union[ModelUsage, _Mapping]]] = ...) -> None: ...
