"""One of the processes, started by the supervisor alone: ``python -m gradwire.server.process.devices.child FD DEVICE FILE``.

It ends with its supervisor, whatever ends that: the kernel kills it then (PR_SET_PDEATHSIG), also while it hangs in a
framework, which no thread of its own could be sure to notice. So the port is free for whoever comes next.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from pydantic import BaseModel

from gradwire.server.config.reading import content_of, parse_config
from gradwire.server.config.server import ServerConfig
from gradwire.server.engines.engine import load_models
from gradwire.server.errors import ConfigError
from gradwire.server.process.devices.answers import answers_of
from gradwire.server.process.devices.messages import Addresses, Loaded, Orders, Serving, Wrong
from gradwire.server.process.devices.placed import placed
from gradwire.server.process.logs import log_to_stderr
from gradwire.server.process.serve import run_until_signal
from gradwire.server.process.service import Service, check_listening
from gradwire.server.system import allow_many_files, keep_freed_memory

_PR_SET_PDEATHSIG = 1
_WRONG = 2


def main() -> None:
    """Serves as ordered, until SIGTERM or SIGINT."""
    supervisor = _Line(int(sys.argv[1]))
    orders = Orders.model_validate_json(supervisor.read())
    _end_with(orders.supervisor)
    sys.path[:] = orders.path
    try:
        _serve(orders, supervisor)
    except ConfigError as e:
        supervisor.write(Wrong(text=str(e)))
        sys.exit(_WRONG)


def _serve(orders: Orders, supervisor: _Line) -> None:
    path, process_index = Path(orders.source), orders.process_index
    content = placed(content_of(orders.text, path, **orders.changes), process_index.device)
    config = parse_config(content, path.parent, orders.source)
    log_to_stderr(config.log_format, served_on=process_index.device)
    try:
        check_listening(config)
        keep_freed_memory()
        allow_many_files()
        estimators = load_models(config)
    except ConfigError as e:
        raise ConfigError(f"{orders.source}: {e} (in the process of {process_index.device})") from None
    supervisor.write(
        Loaded(
            listen=config.listen,
            health_listen=config.health_listen,
            metrics_listen=config.metrics_listen,
            drain_timeout_s=config.drain_timeout_s,
            answers=answers_of(estimators),
        )
    )
    config = _listening(config, Addresses.model_validate_json(supervisor.read()))
    try:
        run_until_signal(Service(config, estimators, process_index), lambda address: supervisor.write(Serving(address=address)))
    except ConfigError as e:
        raise ConfigError(f"{orders.source}: {e}") from None


def _listening(config: ServerConfig, addresses: Addresses) -> ServerConfig:
    return config.model_copy(update=addresses.model_dump())


class _Line:
    """The socket to the supervisor."""

    def __init__(self, number: int) -> None:
        # What the owner's code starts has no business with it.
        os.set_inheritable(number, False)
        self._socket = socket.socket(fileno=number)
        self._file = self._socket.makefile("rb")

    def read(self) -> bytes:
        """The next line. Ends the process if there is none: the supervisor has gone."""
        line = self._file.readline()
        return line if line else _orphaned()

    def write(self, message: BaseModel) -> None:
        try:
            self._socket.sendall(message.model_dump_json().encode() + b"\n")
        except OSError:
            _orphaned()


def _orphaned() -> NoReturn:
    sys.exit("gradwire: the process that started this one has gone")


def _end_with(supervisor: int) -> None:
    """Has the kernel kill this process when its supervisor ends."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor:
        _orphaned()


if __name__ == "__main__":
    main()
