"""Memory that a client and a server on one host share: one file in memory, cut into slots that take a chunk each.

The client makes it and the server maps it. Half of the slots carry chunks to the server, half to the client. Whoever
writes into a slot says so in a frame; whoever reads copies the chunk out and gives the slot back, four at a time while a call
goes on and all at its end, which needs no word. So no more than the slots is ever under way, the same few pages are used again and
again, and nothing stays behind when both processes are gone.

The file is sealed: its size cannot change any more, so that nobody is killed by pages that are not there.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from gradwire.wire.frames import CHUNK_NBYTES
from gradwire.wire.sockets import FREED, HEADER

SLOTS = 8
"""In each direction."""

INLINE_NBYTES = 32 << 10
"""Data of more bytes goes into a slot, and is copied once by each side: a message is copied by sockets and parsers too."""

OFFER = struct.Struct("<I")
"""Payload of a SHARE frame of the client: the number of the file in its process. The server answers with one byte."""
PLACE = struct.Struct("<BQI")
"""Payload of a SHARED frame: the slot, the chunk's offset in its tensor, its bytes."""
SLOT = struct.Struct("<B")
"""Payload of a FREED frame."""

_HALF_NBYTES = SLOTS * CHUNK_NBYTES
_NBYTES = 2 * _HALF_NBYTES + 4096
"""With a page that nobody writes to. Peers of other rules have files of another size, and refuse this one as we refuse theirs; they
go on without shared memory. Files of 16 MiB are of those who gave back every slot by a frame of its own, and waited for it."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL if hasattr(fcntl, "F_SEAL_SHRINK") else 0


class Segment:
    """One side's view of the shared memory.

    Args:
        file: Of the memory; closed.
        writes_second: Whether this side's own slots are those of the second half.
    """

    def __init__(self, file: int, writes_second: bool) -> None:
        self._memory = memoryview(mmap.mmap(file, _NBYTES))
        self._own, self._other = (_HALF_NBYTES, 0) if writes_second else (0, _HALF_NBYTES)
        self.free = list(range(SLOTS))
        """Own slots that nothing is under way in."""

    def put(self, data: memoryview) -> int:
        """Copies a chunk into a free slot of this side's, and returns its number."""
        # The one that was used last, which caches still hold.
        slot = self.free.pop()
        begin = self._own + slot * CHUNK_NBYTES
        self._memory[begin : begin + len(data)] = data
        return slot

    def get(self, slot: int, nbytes: int) -> memoryview:
        """What the other side has put into one of its slots. Raises ValueError if there is no such slot or room."""
        if slot >= SLOTS or nbytes > CHUNK_NBYTES:
            raise ValueError(f"slot {slot} with {nbytes} bytes; there are {SLOTS} of {CHUNK_NBYTES}")
        begin = self._other + slot * CHUNK_NBYTES
        return self._memory[begin : begin + nbytes]

    def freed(self, slot: int) -> None:
        """Takes a slot back. Raises ValueError if it is not one that was given away."""
        if slot >= SLOTS or slot in self.free:
            raise ValueError(f"slot {slot} is given back; it was not taken")
        self.free.append(slot)

    def all_freed(self) -> None:
        """Takes all slots back: the other side has got to the end of a call."""
        if len(self.free) < SLOTS:
            self.free[:] = range(SLOTS)


class Returned:
    """Slots of the other side that have been read and not given back. Half of them go together: a frame is a system call."""

    def __init__(self) -> None:
        self._frames = b""

    def add(self, slot: int) -> bytes:
        """Frames that give slots back, to be sent now; empty: not yet."""
        self._frames += HEADER.pack(FREED, SLOT.size) + SLOT.pack(slot)
        if len(self._frames) < SLOTS // 2 * (HEADER.size + SLOT.size):
            return b""
        frames, self._frames = self._frames, b""
        return frames

    def clear(self) -> None:
        """A call has ended, and all slots are free."""
        self._frames = b""


def create() -> int:
    """A sealed file in memory, for the client to map and offer. Raises OSError."""
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
        pid: The process, by the kernel's word.
        number: Of the file there.

    Raises:
        OSError: It cannot be opened from here (in another container, say), is not sealed or of another size.
    """
    file = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALS != _SEALS or os.fstat(file).st_size != _NBYTES:
            raise OSError("the file that was offered is not sealed, or of another size")
        return Segment(file, writes_second=True)
    finally:
        os.close(file)
