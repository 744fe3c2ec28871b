"""Handle of one device's process in the supervisor: start, orders, reports, exit."""

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
from gradwire.server.process.supervisor.gpus import VISIBLE
from gradwire.server.process.supervisor.messages import (
    LONGEST_NBYTES,
    REPORT,
    Addresses,
    ConfigRejected,
    Loaded,
    Orders,
    Report,
    Serving,
)
from gradwire.server.values.process_index import ProcessIndex


class ProcessDied(Exception):
    """A process has ended unasked before it served. Its exit code is ``exit_code``."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Source:
    """The configuration that every process serves.

    Attributes:
        path: The configuration file.
        text: Its content.
        changes: Keys from the command line.
    """

    path: Path
    text: str
    changes: dict[str, Any]


class DeviceProcess:
    """One process, from its start to its exit; a restart makes a new one.

    Args:
        source: The configuration to serve.
        process_index: Index of this process among those at the address.
        visible: Value of CUDA_VISIBLE_DEVICES.
    """

    def __init__(self, source: Source, process_index: ProcessIndex, visible: str) -> None:
        self.index = process_index
        self._source = source
        self._visible = visible
        self._process: asyncio.subprocess.Process | None = None
        self._served_since_s: float | None = None

    async def start(self) -> None:
        """Starts the process and sends its orders. Raises OSError if the system has no memory or no pid for it."""
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
                    # Ctrl-C in a terminal goes to the supervisor, which lets its processes finish.
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
        self._send(orders)

    async def loaded(self) -> Loaded:
        """Waits until the process has loaded its models. Raises ConfigError, ProcessDied."""
        report = await self._receive()
        assert isinstance(report, Loaded), report
        return report

    async def serve(self, addresses: Addresses) -> str:
        """Lets the process listen, and returns its address. Raises ConfigError, ProcessDied."""
        self._send(addresses)
        report = await self._receive()
        assert isinstance(report, Serving), report
        self._served_since_s = time.monotonic()
        return report.address

    async def wait(self) -> int:
        """Waits until the process has ended, and returns its exit code, negative after a signal."""
        code = await self._child.wait()
        self._writer.close()
        return code

    def terminate(self) -> None:
        """Sends SIGTERM: a process that serves drains, any other ends immediately."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._signal(signal.SIGKILL)

    @property
    def pid(self) -> int:
        """Pid of the process, which has been started."""
        return self._child.pid

    @property
    def runs(self) -> bool:
        """True if the process has been started and is not known to have ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def serving(self) -> bool:
        """True once the process has served."""
        return self._served_since_s is not None

    @property
    def served_s(self) -> float:
        """Time since the process began to serve; 0 if it never did."""
        return 0.0 if self._served_since_s is None else time.monotonic() - self._served_since_s

    def exit_reason(self) -> str:
        """Exit code or signal of a process that has ended, as text."""
        code = self._child.returncode
        assert code is not None
        if code >= 0:
            return f"exit code {code}"
        with suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
        return f"signal {-code}"

    @property
    def exit_code(self) -> int:
        """Exit code as in shells: 128 plus the number of the signal after one."""
        code = self._child.returncode
        assert code is not None
        return code if code >= 0 else 128 - code

    def _send(self, message: BaseModel) -> None:
        self._writer.write(message.model_dump_json().encode() + b"\n")

    async def _receive(self) -> Report:
        with suppress(OSError):  # the process ended before it read its last message
            if line := await self._reader.readline():
                report = REPORT.validate_json(line)
                if isinstance(report, ConfigRejected):
                    raise ConfigError(report.text)
                return report
        await self.wait()
        text = f"the process of {self.index.device} ended with {self.exit_reason()} before it served; see its log"
        raise ProcessDied(text, self.exit_code)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self._child.send_signal(number)

    @property
    def _child(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process
