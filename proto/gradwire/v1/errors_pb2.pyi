from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_FRAME: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_TENSOR: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_SHAPE: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_DTYPE: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_LABEL: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_LAYER: _ClassVar[ErrorReason]
    ERROR_REASON_BAD_VALUE: _ClassVar[ErrorReason]
    ERROR_REASON_EMPTY_BATCH: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_UNKNOWN_MODEL: _ClassVar[ErrorReason]
    ERROR_REASON_UNKNOWN_VERSION: _ClassVar[ErrorReason]
    ERROR_REASON_VERSION_EXISTS: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_GRANTED: _ClassVar[ErrorReason]
    ERROR_REASON_QUEUE_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_BUDGET_SPENT: _ClassVar[ErrorReason]
    ERROR_REASON_RATE_LIMITED: _ClassVar[ErrorReason]
    ERROR_REASON_OUT_OF_MEMORY: _ClassVar[ErrorReason]
    ERROR_REASON_OUT_OF_DISK: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_MANY_CLONES: _ClassVar[ErrorReason]
    ERROR_REASON_UNSUPPORTED: _ClassVar[ErrorReason]
    ERROR_REASON_DRAINING: _ClassVar[ErrorReason]
    ERROR_REASON_HUNG: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_REPLICA_LOST: _ClassVar[ErrorReason]
    ERROR_REASON_TIMEOUT: _ClassVar[ErrorReason]
    ERROR_REASON_STALLED: _ClassVar[ErrorReason]
    ERROR_REASON_CHECKSUM: _ClassVar[ErrorReason]
    ERROR_REASON_MODEL_FAILED: _ClassVar[ErrorReason]
    ERROR_REASON_SERVER_FAILED: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_BAD_FRAME: ErrorReason
ERROR_REASON_BAD_TENSOR: ErrorReason
ERROR_REASON_BAD_SHAPE: ErrorReason
ERROR_REASON_BAD_DTYPE: ErrorReason
ERROR_REASON_BAD_LABEL: ErrorReason
ERROR_REASON_BAD_LAYER: ErrorReason
ERROR_REASON_BAD_VALUE: ErrorReason
ERROR_REASON_EMPTY_BATCH: ErrorReason
ERROR_REASON_TOO_LARGE: ErrorReason
ERROR_REASON_UNKNOWN_MODEL: ErrorReason
ERROR_REASON_UNKNOWN_VERSION: ErrorReason
ERROR_REASON_VERSION_EXISTS: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_NOT_GRANTED: ErrorReason
ERROR_REASON_QUEUE_FULL: ErrorReason
ERROR_REASON_BUDGET_SPENT: ErrorReason
ERROR_REASON_RATE_LIMITED: ErrorReason
ERROR_REASON_OUT_OF_MEMORY: ErrorReason
ERROR_REASON_OUT_OF_DISK: ErrorReason
ERROR_REASON_TOO_MANY_CLONES: ErrorReason
ERROR_REASON_UNSUPPORTED: ErrorReason
ERROR_REASON_DRAINING: ErrorReason
ERROR_REASON_HUNG: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_REPLICA_LOST: ErrorReason
ERROR_REASON_TIMEOUT: ErrorReason
ERROR_REASON_STALLED: ErrorReason
ERROR_REASON_CHECKSUM: ErrorReason
ERROR_REASON_MODEL_FAILED: ErrorReason
ERROR_REASON_SERVER_FAILED: ErrorReason
