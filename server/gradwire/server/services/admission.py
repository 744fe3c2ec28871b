"""Admission of calls on streams: ledger entry, request header, grant, deadline and a place in the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gradwire.backends.capabilities import Operation
from gradwire.backends.errors import ModelFailed
from gradwire.server.catalogue.admitted import Admitted
from gradwire.server.catalogue.catalogue import Catalogue
from gradwire.server.scheduling.scheduler import Scheduler
from gradwire.server.scheduling.work import Call
from gradwire.server.transport.calls import opening
from gradwire.server.transport.codecs import check_result_codec
from gradwire.server.transport.streams import OpenStream
from gradwire.server.trust.recorder import CallRecorder, Entry
from gradwire.wire.frames import Chunk


@dataclass(frozen=True, eq=False)
class AdmittedCall:
    """A call on a stream, once it is admitted.

    Attributes:
        request: First message of the call.
        admitted: The served name as its caller may use it.
        scheduled: The call in the scheduler.
        stream: Stream that it came on.
        entry: Its entry in the ledger.
    """

    request: Any
    admitted: Admitted
    scheduled: Call
    stream: OpenStream
    entry: Entry


class Admission:
    """Admits calls on streams.

    Args:
        catalogue: Served names.
        scheduler: Queues of the device.
        recorder: Records calls in the ledger.
    """

    def __init__(self, catalogue: Catalogue, scheduler: Scheduler, recorder: CallRecorder) -> None:
        self._catalogue = catalogue
        self._scheduler = scheduler
        self._recorder = recorder

    @contextmanager
    def admitted(
        self,
        stream: OpenStream,
        message: bytes | Chunk,
        request: type[Any],
        operation: Operation,
        needed: Callable[[Any], Operation] | None = None,
    ) -> Iterator[AdmittedCall]:
        """Admits a call for the length of a ``with`` block. Whatever ends it is recorded in the ledger.

        Args:
            stream: Stream that the call came on.
            message: First message of the call.
            request: Type of the stream's messages.
            operation: Operation that the ledger records.
            needed: Makes the operation that must be granted from the field ``open``; None: ``operation``.

        Raises:
            WireError: The message does not open a call.
            UnknownModel, NotGranted, Unsupported: The caller may not use the name or the operation.
            QueueFull: The server has as many calls as it takes.
            StoreUnavailable: Calls cannot be recorded.
        """
        with self._recorder.entry(stream.principal, operation.value, stream) as entry:
            first = opening(message, request)
            header = first.open.call
            entry.opened(header)
            if needed is not None:
                operation = needed(first.open)
            # Set before the check: the ledger records refused operations under the account, too.
            entry.admitted = admitted = self._catalogue.admit(header.model, stream.principal)
            if operation not in admitted.operations:
                admitted.check(operation)
            if header.result_codec:
                check_result_codec(operation, header.result_codec)
            timer = stream.end_after(header.timeout_s)
            try:
                with self._scheduler.admit(admitted.model, stream.queue, admitted.counted_as) as scheduled:
                    scheduled.trace = entry.trace
                    yield AdmittedCall(first, admitted, scheduled, stream, entry)
            except ModelFailed as e:
                if admitted.white_box:
                    raise
                # The text of the owner's code may show the inside of the model: sizes of layers, for example.
                raise ModelFailed(f"the model failed in {operation.value}; the server's log says why") from e
            finally:
                if timer is not None:
                    timer.cancel()
