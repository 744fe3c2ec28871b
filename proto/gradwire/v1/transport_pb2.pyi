from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class GetSameHostRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetSameHostResponse(_message.Message):
    __slots__ = ("socket", "ticket")
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    socket: str
    ticket: str
    def __init__(self, socket: _Optional[str] = ..., ticket: _Optional[str] = ...) -> None: ...

class SameHostHello(_message.Message):
    __slots__ = ("method", "client", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    method: str
    client: str
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, method: _Optional[str] = ..., client: _Optional[str] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...
