"""Starts a process for each device, all at one address, and looks after them until it is told to end.

All of them listen from the same moment on, when the last has loaded its models: otherwise whoever waits for the server would
find the first one, and stay with it. One that dies is started again; meanwhile the kernel leads connections to the others.
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
from gradwire.server.process.devices.answers import differing
from gradwire.server.process.devices.found import NoDevice, found
from gradwire.server.process.devices.messages import Addresses, Loaded
from gradwire.server.process.devices.ports import Reserved, metrics_address
from gradwire.server.process.devices.process import DeviceProcess, Died, Source
from gradwire.server.process.devices.restarts import Deaths, Pace
from gradwire.server.values.process_index import ProcessIndex

T = TypeVar("T")

log = logging.getLogger("gradwire.server")

GIVEN_UP = 70
"""EX_SOFTWARE of sysexits.h: whatever started the server may start it again."""

_AFTER_DRAIN_S = 15.0
"""What a process needs after `drain_timeout_s`, for its ledger and its last words; then it is killed."""


class Failed(Exception):
    """A process cannot start, or does not stay. Ends the server with an exit code, after an error for people."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def devices_of(content: Any, source: str) -> tuple[str, ...] | None:
    """The key ``devices`` of what `config.content_of` returned, which decides how the rest is read. Raises ConfigError."""
    given = content.get("devices") if isinstance(content, Mapping) else None
    try:
        return None if given is None else device_names(given)
    except ValueError as e:
        raise ConfigError(f"{source}: devices: {e}") from None


def supervise(source: Source, names: tuple[str, ...], ready: Callable[[str], None], pace: Pace | None = None) -> int:
    """Serves on every device until SIGTERM or SIGINT, then lets all processes drain.

    Args:
        source: What to serve.
        names: Of the devices, as `names.device_names` returns them.
        ready: Called with the address once every process takes calls.
        pace: Of starting processes again.

    Returns:
        The exit code: 0 if all have ended well.

    Raises:
        ConfigError: The configuration is wrong, or a device is not there.
        Failed: A process cannot start, or does not stay.
    """
    if sys.platform != "linux":
        raise ConfigError(f"devices: several processes at one address need Linux; this is {sys.platform}")
    try:
        devices = found(names)
    except NoDevice as e:
        raise ConfigError(f"devices: {e}") from None
    return asyncio.run(_Supervisor(source, devices, pace or Pace()).run(ready))


class _Supervisor:
    def __init__(self, source: Source, devices: Sequence[tuple[str, str]], pace: Pace) -> None:
        self._source = source
        self._devices = devices
        self._pace = pace
        self._processes = [self._new(number) for number in range(len(devices))]
        self._reserved: list[Reserved] = []
        self._drain_timeout_s = 0.0
        self._end = asyncio.Event()

    async def run(self, ready: Callable[[str], None]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end.set)
        try:
            if await self._unless_ended(self._start()):
                ready(self._addresses.listen)
                await self._unless_ended(self._all(self._keep, range(len(self._processes))))
        except Died as e:
            raise Failed(str(e), e.exit_code) from None
        finally:
            code = await self._end_all()
            for reserved in self._reserved:
                reserved.close()
        return code

    async def _start(self) -> bool:
        log.info("starting", extra={"devices": [name for name, _ in self._devices]})
        loaded = await self._all(self._load, self._processes)
        first = self._first = loaded[0]
        for other, process in zip(loaded, self._processes, strict=True):
            if models := differing(first.answers, other.answers):
                raise ConfigError(
                    f"{self._source.path}: {models[0]}: the processes of {self._devices[0][0]} and {process.index.device} have "
                    "different weights, and callers would get now these, now those. A factory that draws them needs a seed, or "
                    "weights: FILE"
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
        """Has a process of a device, forever. Raises Failed when that is hopeless."""
        deaths = Deaths(self._pace)
        while True:
            process = self._processes[number]
            await process.ended()
            reason, name = process.how_it_ended(), process.index.device
            while True:
                delay_s = deaths.delay_s(process.served_s)
                if delay_s is None:
                    raise Failed(
                        f"the process of {name} has ended {deaths.in_a_row} times in a row within {self._pace.quick_s:g} s, "
                        f"the last time with: {reason}. All processes end; the log says more",
                        GIVEN_UP,
                    )
                log.error("a process has ended", extra={"device": name, "reason": reason, "again_in_s": round(delay_s, 3)})
                await asyncio.sleep(delay_s)
                process = self._processes[number] = self._new(number)
                try:
                    loaded = await self._load(process)
                    if models := differing(self._first.answers, loaded.answers):
                        raise ConfigError(f"{models[0]}: its weights are not those that the other processes have loaded")
                    await self._serve(process)
                    log.info("a process serves again", extra={"device": name, "pid": process.pid})
                    break
                except (ConfigError, Died, OSError) as e:
                    reason = str(e)
                    if process.runs:
                        process.kill()
                        await process.ended()

    async def _end_all(self) -> int:
        """Lets all processes drain, kills what does not end, and returns the exit code."""
        # Not those that have died, and would have been started again.
        there = [process for process in self._processes if process.runs]
        for process in there:
            process.ask_to_end()
        ends = asyncio.gather(*(process.ended() for process in there))
        try:
            await asyncio.wait_for(asyncio.shield(ends), self._drain_timeout_s + _AFTER_DRAIN_S)
        except asyncio.TimeoutError:
            log.error("processes do not end, and are killed", extra={"after_s": self._drain_timeout_s + _AFTER_DRAIN_S})
            for process in there:
                process.kill()
            await ends
        # Those that did not serve yet had nothing to finish, and are ended by the signal itself.
        codes = [process.exit_code for process in there if process.serving]
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

    async def _all(self, does: Callable[[Any], Coroutine[Any, Any, T]], what: Sequence[Any]) -> list[T]:
        """The results of all; the first error ends the others."""
        tasks = [asyncio.create_task(does(one)) for one in what]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _unless_ended(self, work: Awaitable[T]) -> T | None:
        """What the work returns; None if the server is to end before."""
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
