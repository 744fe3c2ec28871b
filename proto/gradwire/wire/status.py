"""Errors on the wire: a gRPC status code, a reason of the contract, and google.rpc details.

The details are in the trailing metadata that all gRPC libraries use for them, ``grpc-status-details-bin``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

from gradwire.v1.errors_pb2 import ERROR_REASON_UNSPECIFIED, ErrorReason

DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "gradwire"
MAX_TEXT_BYTES = 1200
"""gRPC rejects metadata over 8 KiB, and the text is sent twice: percent-encoded, up to three times its size, and in the details."""

_PREFIX = "ERROR_REASON_"
_REASONS = {name.removeprefix(_PREFIX): cast("ErrorReason", value) for name, value in ErrorReason.items()}

# protobuf in pure Python raises UnicodeDecodeError where the compiled one raises DecodeError.
_BROKEN = (DecodeError, UnicodeDecodeError)
_Detail = TypeVar("_Detail", bound=Message)


@dataclass(frozen=True)
class Fault:
    """Reason and details of a failed call.

    Attributes:
        code: The gRPC status.
        reason: The contract's reason.
        text: The given value, the expected one and the remedy; cut at `MAX_TEXT_BYTES`.
        field: The wrong part of the request, for INVALID_ARGUMENT.
        retry_after_s: The retry hint, if retrying helps.
        quota: The exhausted quota, if a budget is spent.
    """

    code: grpc.StatusCode
    reason: ErrorReason
    text: str
    field: str = ""
    retry_after_s: float | None = None
    quota: str = ""

    def __post_init__(self) -> None:
        encoded = self.text.encode(errors="replace")
        if len(encoded) > MAX_TEXT_BYTES:
            # The dataclass is frozen; the text is cut once, here.
            object.__setattr__(self, "text", encoded[: MAX_TEXT_BYTES - 3].decode(errors="ignore") + "…")

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Encodes the details as trailing metadata."""
        status = Status(code=self.code.value[0], message=self.text)
        status.details.add().Pack(ErrorInfo(reason=ErrorReason.Name(self.reason).removeprefix(_PREFIX), domain=DOMAIN))
        if self.field:
            status.details.add().Pack(BadRequest(field_violations=[{"field": self.field}]))
        if self.retry_after_s is not None:
            delay = Duration()
            delay.FromMilliseconds(round(self.retry_after_s * 1000))
            status.details.add().Pack(RetryInfo(retry_delay=delay))
        if self.quota:
            status.details.add().Pack(QuotaFailure(violations=[{"subject": self.quota}]))
        return ((DETAILS_KEY, status.SerializeToString()),)


def fault_of(code: grpc.StatusCode, text: str, metadata: Iterable[tuple[str, str | bytes]] | None) -> Fault:
    """Reads the fault of a call's status. A status from elsewhere than a gradwire server has the reason UNSPECIFIED."""
    reason = ERROR_REASON_UNSPECIFIED
    field, retry_after_s, quota = "", None, ""
    for detail in _details(metadata):
        if (info := _unpack(detail, ErrorInfo())) is not None and info.domain == DOMAIN:
            reason = _REASONS.get(info.reason, reason)
        elif (request := _unpack(detail, BadRequest())) is not None and request.field_violations:
            field = request.field_violations[0].field
        elif (retry := _unpack(detail, RetryInfo())) is not None:
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        elif (failure := _unpack(detail, QuotaFailure())) is not None and failure.violations:
            quota = failure.violations[0].subject
    return Fault(code, reason, text, field, retry_after_s, quota)


def _details(metadata: Iterable[tuple[str, str | bytes]] | None) -> Sequence[Any]:
    for key, value in metadata or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return tuple(Status.FromString(value).details)
            except _BROKEN:
                return ()
    return ()


def _unpack(detail: Any, message: _Detail) -> _Detail | None:
    try:
        return message if detail.Unpack(message) else None
    except _BROKEN:
        return None
