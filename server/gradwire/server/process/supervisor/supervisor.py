"""Supervisor: starts a process for each device, all at one address, and restarts those that end.

All processes begin to listen together, when the last has loaded its models: otherwise clients that wait for the server would
all connect to the first one, and stay there. While one restarts, the kernel routes connections to the others.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from gradwire.server.config.device_names import device_names
from gradwire.server.errors import ConfigError
from gradwire.server.process.supervisor.device_process import DeviceProcess, ProcessDied, Source
from gradwire.server.process.supervisor.gpus import DeviceNotFound, find_devices
from gradwire.server.process.supervisor.messages import Addresses, Loaded
from gradwire.server.process.supervisor.ports import Reserved, metrics_address
from gradwire.server.process.supervisor.probe_outputs import differing_models
from gradwire.server.process.supervisor.restarts import RestartCount, RestartPolicy
from gradwire.server.values.process_index import ProcessIndex

T = TypeVar("T")

log = logging.getLogger("gradwire.server")

EXIT_GIVEN_UP = 70
"""EX_SOFTWARE of sysexits.h: a service manager may restart the server."""

_AFTER_DRAIN_S = 15.0
"""Time after `drain_timeout_s` in which a process writes its ledger and ends; then it is killed."""


class SupervisionFailed(Exception):
    """A process cannot start, or fails repeatedly. The server ends with ``exit_code``."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def configured_devices(content: Any, source: str) -> tuple[str, ...] | None:
    """The key ``devices`` of a configuration before validation, which decides how the rest is read. Raises ConfigError."""
    given = content.get("devices") if isinstance(content, Mapping) else None
    try:
        return None if given is None else device_names(given)
    except ValueError as e:
        raise ConfigError(f"{source}: devices: {e}") from None


def supervise(source: Source, names: tuple[str, ...], ready: Callable[[str], None], policy: RestartPolicy | None = None) -> int:
    """Serves on every device until SIGTERM or SIGINT, then lets all processes drain.

    Args:
        source: The configuration to serve.
        names: Names of the devices, as `device_names` returns them.
        ready: Called with the address once every process accepts calls.
        policy: Delays and limit of restarts.

    Returns:
        The exit code: 0 if all processes ended with 0.

    Raises:
        ConfigError: The configuration is wrong, or a device does not exist.
        SupervisionFailed: A process cannot start, or fails repeatedly.
    """
    if sys.platform != "linux":
        raise ConfigError(f"devices: several processes at one address need Linux; this is {sys.platform}")
    try:
        devices = find_devices(names)
    except DeviceNotFound as e:
        raise ConfigError(f"devices: {e}") from None
    return asyncio.run(_Supervisor(source, devices, policy or RestartPolicy()).run(ready))


class _Supervisor:
    def __init__(self, source: Source, devices: Sequence[tuple[str, str]], policy: RestartPolicy) -> None:
        self._source = source
        self._devices = devices
        self._policy = policy
        self._processes = [self._new(number) for number in range(len(devices))]
        self._reserved: list[Reserved] = []
        self._drain_timeout_s = 0.0
        self._end = asyncio.Event()

    async def run(self, ready: Callable[[str], None]) -> int:
        """Serves until a signal, and returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end.set)
        try:
            if await self._unless_ended(self._start()):
                ready(self._addresses.listen)
                await self._unless_ended(self._all(self._keep, range(len(self._processes))))
        except ProcessDied as e:
            raise SupervisionFailed(str(e), e.exit_code) from None
        finally:
            code = await self._terminate_all()
            for reserved in self._reserved:
                reserved.close()
        return code

    async def _start(self) -> bool:
        log.info("starting", extra={"devices": [name for name, _ in self._devices]})
        loaded = await self._all(self._load, self._processes)
        first = self._first = loaded[0]
        for other, process in zip(loaded, self._processes, strict=True):
            if models := differing_models(first.probe_outputs, other.probe_outputs):
                raise ConfigError(
                    f"{self._source.path}: {models[0]}: the processes of {self._devices[0][0]} and {process.index.device} have "
                    "different weights, so that answers would depend on the connection. A factory that draws them needs a seed, "
                    "or weights: FILE"
                )
        self._drain_timeout_s = first.drain_timeout_s
        self._addresses = Addresses(
            listen=self._reserve("listen", first.listen),
            health_listen=None if first.health_listen is None else self._reserve("health_listen", first.health_listen),
            metrics_listen=first.metrics_listen,
        )
        metrics_address(first.metrics_listen, len(self._processes) - 1)
        await self._all(self._serve, self._processes)
        pids = {str(process.index.number): process.pid for process in self._processes}
        log.info("all processes serve", extra={"address": self._addresses.listen, "pids": pids})
        return True

    async def _load(self, process: DeviceProcess) -> Loaded:
        await process.start()
        return await process.loaded()

    async def _serve(self, process: DeviceProcess) -> None:
        metrics = metrics_address(self._addresses.metrics_listen, process.index.number)
        await process.serve(self._addresses.model_copy(update={"metrics_listen": metrics}))

    async def _keep(self, number: int) -> None:
        """Restarts the process of a device whenever it ends. Raises SupervisionFailed after too many quick failures."""
        failures = RestartCount(self._policy)
        while True:
            process = self._processes[number]
            await process.wait()
            reason, name = process.exit_reason(), process.index.device
            while True:
                delay_s = failures.delay_s(process.served_s)
                if delay_s is None:
                    raise SupervisionFailed(
                        f"the process of {name} has ended {failures.in_a_row} times in a row within {self._policy.quick_s:g} s, "
                        f"the last time with: {reason}. All processes end; see the log",
                        EXIT_GIVEN_UP,
                    )
                log.error("a process has ended", extra={"device": name, "reason": reason, "again_in_s": round(delay_s, 3)})
                await asyncio.sleep(delay_s)
                process = self._processes[number] = self._new(number)
                try:
                    loaded = await self._load(process)
                    if models := differing_models(self._first.probe_outputs, loaded.probe_outputs):
                        raise ConfigError(f"{models[0]}: its weights differ from those that the other processes have loaded")
                    await self._serve(process)
                    log.info("a process serves again", extra={"device": name, "pid": process.pid})
                    break
                except (ConfigError, ProcessDied, OSError) as e:
                    reason = str(e)
                    if process.runs:
                        process.kill()
                        await process.wait()

    async def _terminate_all(self) -> int:
        """Lets all processes drain, kills those that do not end in time, and returns the exit code."""
        # Processes that have ended and wait for a restart are left out.
        running = [process for process in self._processes if process.runs]
        for process in running:
            process.terminate()
        exits = asyncio.gather(*(process.wait() for process in running))
        try:
            await asyncio.wait_for(asyncio.shield(exits), self._drain_timeout_s + _AFTER_DRAIN_S)
        except asyncio.TimeoutError:
            log.error("processes do not end, and are killed", extra={"after_s": self._drain_timeout_s + _AFTER_DRAIN_S})
            for process in running:
                process.kill()
            await exits
        # Processes that did not serve yet had nothing to finish; the signal itself ended them.
        codes = [process.exit_code for process in running if process.serving]
        return next((code for code in codes if code), 0)

    def _new(self, number: int) -> DeviceProcess:
        name, visible = self._devices[number]
        return DeviceProcess(self._source, ProcessIndex(number=number, count=len(self._devices), device=name), visible)

    def _reserve(self, key: str, listen: str) -> str:
        try:
            self._reserved.append(Reserved(key, listen))
        except ConfigError as e:
            raise ConfigError(f"{self._source.path}: {e}") from None
        return self._reserved[-1].address

    async def _all(self, function: Callable[[Any], Coroutine[Any, Any, T]], arguments: Sequence[Any]) -> list[T]:
        """Runs a function for all arguments together, and returns the results; the first error cancels the others."""
        tasks = [asyncio.create_task(function(argument)) for argument in arguments]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _unless_ended(self, work: Awaitable[T]) -> T | None:
        """Result of the work; None if the server must end before."""
        task = asyncio.ensure_future(work)
        end = asyncio.create_task(self._end.wait())
        try:
            await asyncio.wait({task, end}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return await task
            return None
        finally:
            for one in (task, end):
                one.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await one
