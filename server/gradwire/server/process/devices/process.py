"""One device's process, seen from the supervisor: started, told what to do, waited for, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gradwire.server.errors import ConfigError
from gradwire.server.process.devices.found import VISIBLE
from gradwire.server.process.devices.messages import LONGEST_NBYTES, TOLD, Addresses, Loaded, Orders, Serving, Told, Wrong
from gradwire.server.values.process_index import ProcessIndex


class Died(Exception):
    """The process has ended before it served, and nobody had asked it to. Its exit code is ``exit_code``."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Source:
    """What every process serves.

    Attributes:
        path: The configuration file.
        text: What was in it.
        changes: Keys that were given on the command line.
    """

    path: Path
    text: str
    changes: dict[str, Any]


class DeviceProcess:
    """A process, from its start to its end; the next one of the same device is another.

    Args:
        source: What it serves.
        process_index: Which of the processes it is.
        visible: The GPUs that it sees, as CUDA takes them.
    """

    def __init__(self, source: Source, process_index: ProcessIndex, visible: str) -> None:
        self.index = process_index
        self._source = source
        self._visible = visible
        self._process: asyncio.subprocess.Process | None = None
        self._served_since_s: float | None = None

    async def start(self) -> None:
        """Starts it, and gives it its orders. Raises OSError if there is no memory, or no number, for a process now."""
        ours, theirs = socket.socketpair()
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=LONGEST_NBYTES)
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", f"{__package__}.child"),
                    *(str(theirs.fileno()), self.index.device, str(self._source.path)),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={**os.environ, VISIBLE: self._visible},
                    # Ctrl-C in a terminal is for the supervisor, which lets its processes finish.
                    start_new_session=True,
                )
        except OSError:
            self._writer.close()
            raise
        source = self._source
        orders = Orders(
            source=str(source.path),
            text=source.text,
            changes=source.changes,
            process_index=self.index,
            supervisor=os.getpid(),
            path=sys.path,
        )
        self._tell(orders)

    async def loaded(self) -> Loaded:
        """Waits until it has loaded its models. Raises ConfigError, Died."""
        told = await self._told()
        assert isinstance(told, Loaded), told
        return told

    async def serve(self, addresses: Addresses) -> str:
        """Lets it listen, and returns where it does. Raises ConfigError, Died."""
        self._tell(addresses)
        told = await self._told()
        assert isinstance(told, Serving), told
        self._served_since_s = time.monotonic()
        return told.address

    async def ended(self) -> int:
        """Waits until it has ended, and returns its exit code, negative after a signal."""
        code = await self._there.wait()
        self._writer.close()
        return code

    def ask_to_end(self) -> None:
        """Lets it drain; if it does not serve yet, it ends at once."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    @property
    def pid(self) -> int:
        return self._there.pid

    @property
    def runs(self) -> bool:
        """Whether it has been started and has not ended, as far as is known."""
        return self._process is not None and self._process.returncode is None

    @property
    def serving(self) -> bool:
        """Whether it has come to that."""
        return self._served_since_s is not None

    @property
    def served_s(self) -> float:
        """For how long; 0 if it never came to that."""
        return 0.0 if self._served_since_s is None else time.monotonic() - self._served_since_s

    def how_it_ended(self) -> str:
        """For people. Of a process that has ended."""
        code = self._there.returncode
        assert code is not None
        if code >= 0:
            return f"exit code {code}"
        with suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
        return f"signal {-code}"

    @property
    def exit_code(self) -> int:
        """As shells count: 128 and the number of the signal."""
        code = self._there.returncode
        assert code is not None
        return code if code >= 0 else 128 - code

    def _tell(self, message: BaseModel) -> None:
        self._writer.write(message.model_dump_json().encode() + b"\n")

    async def _told(self) -> Told:
        with suppress(OSError):  # it has died before it read what it was told
            if line := await self._reader.readline():
                told = TOLD.validate_json(line)
                if isinstance(told, Wrong):
                    raise ConfigError(told.text)
                return told
        await self.ended()
        text = f"the process of {self.index.device} ended with {self.how_it_ended()} before it served; its log says why"
        raise Died(text, self.exit_code)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._there.send_signal(number)

    @property
    def _there(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process
