import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("server", "version", "started", "now", "open_streams", "running_calls", "received_bytes", "sent_bytes", "ledger_pending_calls", "ledger_lost_calls", "refusing", "devices", "models", "queues", "process")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    NOW_FIELD_NUMBER: _ClassVar[int]
    OPEN_STREAMS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_CALLS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEDGER_PENDING_CALLS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_LOST_CALLS_FIELD_NUMBER: _ClassVar[int]
    REFUSING_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    server: str
    version: str
    started: _timestamp_pb2.Timestamp
    now: _timestamp_pb2.Timestamp
    open_streams: int
    running_calls: int
    received_bytes: int
    sent_bytes: int
    ledger_pending_calls: int
    ledger_lost_calls: int
    refusing: str
    devices: _containers.RepeatedCompositeFieldContainer[DeviceStatus]
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    queues: _containers.RepeatedCompositeFieldContainer[QueueStatus]
    process: ProcessStatus
    def __init__(self, server: _Optional[str] = ..., version: _Optional[str] = ..., started: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., now: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., open_streams: _Optional[int] = ..., running_calls: _Optional[int] = ..., received_bytes: _Optional[int] = ..., sent_bytes: _Optional[int] = ..., ledger_pending_calls: _Optional[int] = ..., ledger_lost_calls: _Optional[int] = ..., refusing: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[DeviceStatus, _Mapping]]] = ..., models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ..., queues: _Optional[_Iterable[_Union[QueueStatus, _Mapping]]] = ..., process: _Optional[_Union[ProcessStatus, _Mapping]] = ...) -> None: ...

class ProcessStatus(_message.Message):
    __slots__ = ("number", "count", "device")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    number: int
    count: int
    device: str
    def __init__(self, number: _Optional[int] = ..., count: _Optional[int] = ..., device: _Optional[str] = ...) -> None: ...

class DeviceStatus(_message.Message):
    __slots__ = ("device", "uuid", "memory_bytes", "utilization")
    class MemoryBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    device: str
    uuid: str
    memory_bytes: _containers.ScalarMap[str, int]
    utilization: float
    def __init__(self, device: _Optional[str] = ..., uuid: _Optional[str] = ..., memory_bytes: _Optional[_Mapping[str, int]] = ..., utilization: _Optional[float] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("name", "queue", "version", "backend", "device", "device_uuid", "operations")
    NAME_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_UUID_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    queue: str
    version: str
    backend: str
    device: str
    device_uuid: str
    operations: _containers.RepeatedCompositeFieldContainer[OperationStatus]
    def __init__(self, name: _Optional[str] = ..., queue: _Optional[str] = ..., version: _Optional[str] = ..., backend: _Optional[str] = ..., device: _Optional[str] = ..., device_uuid: _Optional[str] = ..., operations: _Optional[_Iterable[_Union[OperationStatus, _Mapping]]] = ...) -> None: ...

class OperationStatus(_message.Message):
    __slots__ = ("operation", "outcomes", "forward", "backward", "seconds")
    class OutcomesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    FORWARD_FIELD_NUMBER: _ClassVar[int]
    BACKWARD_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    operation: str
    outcomes: _containers.ScalarMap[str, int]
    forward: int
    backward: int
    seconds: Histogram
    def __init__(self, operation: _Optional[str] = ..., outcomes: _Optional[_Mapping[str, int]] = ..., forward: _Optional[int] = ..., backward: _Optional[int] = ..., seconds: _Optional[_Union[Histogram, _Mapping]] = ...) -> None: ...

class QueueStatus(_message.Message):
    __slots__ = ("name", "waiting_calls", "wait_seconds", "batches")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAITING_CALLS_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    name: str
    waiting_calls: int
    wait_seconds: Histogram
    batches: _containers.RepeatedCompositeFieldContainer[BatchStatus]
    def __init__(self, name: _Optional[str] = ..., waiting_calls: _Optional[int] = ..., wait_seconds: _Optional[_Union[Histogram, _Mapping]] = ..., batches: _Optional[_Iterable[_Union[BatchStatus, _Mapping]]] = ...) -> None: ...

class BatchStatus(_message.Message):
    __slots__ = ("function", "batches", "blocks", "rows", "seconds")
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    function: str
    batches: int
    blocks: int
    rows: int
    seconds: float
    def __init__(self, function: _Optional[str] = ..., batches: _Optional[int] = ..., blocks: _Optional[int] = ..., rows: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("bounds", "counts", "total")
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    bounds: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    total: float
    def __init__(self, bounds: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., total: _Optional[float] = ...) -> None: ...
