"""Shared memory of a client and a server on one host: a file divided into slots of one chunk each.

The client creates it and the server maps it. Half of the slots carry chunks to the server, half to the client. The writer of a
slot announces it in a frame; the reader copies the chunk and returns the slot, four at a time during a call and all at its end
without a frame. So at most all slots are in transit, the same few pages are reused, and nothing remains when both processes
have ended.

The file is sealed: its size cannot change, so that neither process can be killed by missing pages.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from gradwire.wire.frames import CHUNK_NBYTES
from gradwire.wire.sockets import FREED, HEADER

SLOTS = 8
"""Slots in each direction."""

INLINE_NBYTES = 32 << 10
"""Most bytes of data in a message; larger data uses slots, which each side copies once: sockets and parsers copy too."""

OFFER = struct.Struct("<I")
"""Payload of a SHARE frame of the client: the number of the file in its process. The server answers with one byte."""
PLACE = struct.Struct("<BQI")
"""Payload of a SHARED frame: the slot, the chunk's offset in its tensor, its bytes."""
SLOT = struct.Struct("<B")
"""Payload of a FREED frame."""

_HALF_NBYTES = SLOTS * CHUNK_NBYTES
_NBYTES = 2 * _HALF_NBYTES + 4096
"""Includes a page that is never written. Peers with other rules have files of another size; each side rejects the other's file
and continues without shared memory. Files of 16 MiB belong to peers that returned every slot in a frame of its own."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL if hasattr(fcntl, "F_SEAL_SHRINK") else 0


class Segment:
    """One side's view of the shared memory.

    Args:
        file: File descriptor of the memory; the caller closes it.
        writes_second: Whether this side writes to the slots of the second half.
    """

    def __init__(self, file: int, writes_second: bool) -> None:
        self._memory = memoryview(mmap.mmap(file, _NBYTES))
        self._own, self._other = (_HALF_NBYTES, 0) if writes_second else (0, _HALF_NBYTES)
        self.free = list(range(SLOTS))
        """Own slots that are free."""

    def put(self, data: memoryview) -> int:
        """Copies a chunk into a free own slot and returns the slot's number."""
        # The slot used last, which is still in caches.
        slot = self.free.pop()
        begin = self._own + slot * CHUNK_NBYTES
        self._memory[begin : begin + len(data)] = data
        return slot

    def get(self, slot: int, nbytes: int) -> memoryview:
        """Returns the data of a slot of the other side. Raises ValueError for a wrong slot or size."""
        if slot >= SLOTS or nbytes > CHUNK_NBYTES:
            raise ValueError(f"slot {slot} with {nbytes} bytes; expected one of {SLOTS} slots of {CHUNK_NBYTES} bytes")
        begin = self._other + slot * CHUNK_NBYTES
        return self._memory[begin : begin + nbytes]

    def freed(self, slot: int) -> None:
        """Marks a returned slot as free. Raises ValueError if it was not in use."""
        if slot >= SLOTS or slot in self.free:
            raise ValueError(f"slot {slot} was returned but is not in use")
        self.free.append(slot)

    def all_freed(self) -> None:
        """Marks all slots as free at the end of a call."""
        if len(self.free) < SLOTS:
            self.free[:] = range(SLOTS)


class Returned:
    """Slots of the other side that were read but not returned.

    Half of all slots are returned together, because a frame is a system call.
    """

    def __init__(self) -> None:
        self._frames = b""

    def add(self, slot: int) -> bytes:
        """Adds a slot, and returns the frames to send now; empty: none yet."""
        self._frames += HEADER.pack(FREED, SLOT.size) + SLOT.pack(slot)
        if len(self._frames) < SLOTS // 2 * (HEADER.size + SLOT.size):
            return b""
        frames, self._frames = self._frames, b""
        return frames

    def clear(self) -> None:
        """Forgets the slots at the end of a call, when all are free."""
        self._frames = b""


def create() -> int:
    """Creates a sealed file in memory, which the client maps and offers. Raises OSError."""
    file = os.memfd_create("gradwire", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, _NBYTES)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(file)
        raise
    return file


def attach(pid: int, number: int) -> Segment:
    """Maps the file that another process of this user offers.

    Args:
        pid: The process, as the kernel reports it.
        number: The file's descriptor in that process.

    Raises:
        OSError: The file cannot be opened from here (for example from another container), is not sealed or has another size.
    """
    file = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALS != _SEALS or os.fstat(file).st_size != _NBYTES:
            raise OSError("the offered file must be sealed and have the expected size")
        return Segment(file, writes_second=True)
    finally:
        os.close(file)
