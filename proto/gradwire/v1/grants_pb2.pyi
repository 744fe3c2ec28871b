import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from gradwire.v1 import model_pb2 as _model_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Grant(_message.Message):
    __slots__ = ("principal", "model", "access", "activations", "operations", "decimals", "top_k", "budget", "expires")
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    DECIMALS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    principal: str
    model: str
    access: _model_pb2.Access
    activations: bool
    operations: _containers.RepeatedScalarFieldContainer[_model_pb2.Operation]
    decimals: int
    top_k: int
    budget: GrantBudget
    expires: _timestamp_pb2.Timestamp
    def __init__(self, principal: _Optional[str] = ..., model: _Optional[str] = ..., access: _Optional[_Union[_model_pb2.Access, str]] = ..., activations: bool = ..., operations: _Optional[_Iterable[_Union[_model_pb2.Operation, str]]] = ..., decimals: _Optional[int] = ..., top_k: _Optional[int] = ..., budget: _Optional[_Union[GrantBudget, _Mapping]] = ..., expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class GrantBudget(_message.Message):
    __slots__ = ("forward", "backward", "window_s", "window_forward", "window_backward", "rows_per_s")
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_FIELD_NUMBER: _ClassVar[int]
    WINDOW_S_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FORWARD_FIELD_NUMBER: _ClassVar[int]
    WINDOW_BACKWARD_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_S_FIELD_NUMBER: _ClassVar[int]
    forward: int
    backward: int
    window_s: float
    window_forward: int
    window_backward: int
    rows_per_s: float
    def __init__(self, forward: _Optional[int] = ..., backward: _Optional[int] = ..., window_s: _Optional[float] = ..., window_forward: _Optional[int] = ..., window_backward: _Optional[int] = ..., rows_per_s: _Optional[float] = ...) -> None: ...

class PutGrantRequest(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: Grant
    def __init__(self, grant: _Optional[_Union[Grant, _Mapping]] = ...) -> None: ...

class PutGrantResponse(_message.Message):
    __slots__ = ("grant",)
    GRANT_FIELD_NUMBER: _ClassVar[int]
    grant: Grant
    def __init__(self, grant: _Optional[_Union[Grant, _Mapping]] = ...) -> None: ...

class RevokeGrantRequest(_message.Message):
    __slots__ = ("principal", "model")
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    principal: str
    model: str
    def __init__(self, principal: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class RevokeGrantResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListGrantsRequest(_message.Message):
    __slots__ = ("principal",)
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    principal: str
    def __init__(self, principal: _Optional[str] = ...) -> None: ...

class ListGrantsResponse(_message.Message):
    __slots__ = ("grants",)
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    grants: _containers.RepeatedCompositeFieldContainer[Grant]
    def __init__(self, grants: _Optional[_Iterable[_Union[Grant, _Mapping]]] = ...) -> None: ...
