"""A replica as Ray Serve runs it: one model, one thread that computes, in a process that Ray places and starts again.

Ray calls its methods. Answers travel as they are; errors of backends travel as `Failed`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import ray

from gradwire.backends.backend import Array
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import BackendError
from gradwire.backends.load import load
from gradwire.backends.training import FitOptions, FitProgress
from gradwire.server.engines.facts import Facts
from gradwire.server.engines.replica import Failed, NotLoaded, Replica, Weights
from gradwire.server.system import freeze_loaded_objects, keep_freed_memory


class RayReplica:
    """What a deployment has several of.

    Args:
        config: Of the model.
        paths: Where the owner's code is, besides what is installed: folders that every node has.
    """

    def __init__(self, config: ModelConfig, paths: list[str]) -> None:
        keep_freed_memory()
        sys.path[:0] = [path for path in paths if path not in sys.path]
        self._device = ThreadPoolExecutor(1, "gradwire-device")
        self._problem: NotLoaded | None = None
        self._told = False
        try:
            # Where it computes: some frameworks keep what they make in the thread that made it.
            self._replica = self._device.submit(Replica, partial(load, config)).result()
        except BackendError as e:
            # Ray starts what fails again and again; this one can say why.
            self._problem = NotLoaded(Failed.of(e))
        freeze_loaded_objects()

    def check_health(self) -> None:
        """Raises if there is no model, once somebody has been told why: Ray then starts another one, somewhere else perhaps."""
        if self._problem is not None and self._told:
            raise RuntimeError(f"the model could not be loaded: {self._problem.why.text}")

    async def facts(self) -> Facts | NotLoaded:
        """What there is to know of the model, or why it was not loaded."""
        return self._not_loaded() or await self._on_device(lambda: self._replica.facts)

    async def compute(self, weights: Weights, method: str, rows: dict[str, Array], options: dict[str, Any]) -> Any:
        """`Replica.compute` by these weights."""
        return self._not_loaded() or await self._by(weights, lambda: self._replica.compute(method, rows, options))

    async def file(self, weights: Weights) -> bytes | Failed | NotLoaded:
        """These weights as a file."""
        result: bytes | Failed | NotLoaded = self._not_loaded() or await self._by(weights, lambda: self._replica.weights())
        return result

    async def fit(self, weights: Weights, key: str, x: Array, y: Array, options: FitOptions) -> AsyncIterator[Any]:
        """A fit from these weights: what was done, and at the end the new weights as a file, or `Failed`."""
        async for done in self._fitting(weights, key, lambda: self._replica.begin_fit(x, y, options)):
            yield done

    async def fit_batches(self, weights: Weights, key: str, feed: Any, training_mode: bool) -> AsyncIterator[Any]:
        """As `fit`, on batches from a queue; None is its end."""
        batches: Iterator[Any] = iter(feed.get, None)
        async for done in self._fitting(weights, key, lambda: self._replica.begin_fit_batches(batches, training_mode)):
            yield done

    async def _fitting(self, weights: Weights, key: str, begin: Callable[[], None]) -> AsyncIterator[Any]:
        problem = self._not_loaded()
        if problem is not None:
            yield problem
            return
        try:
            failed = await self._by(weights, begin)
            if failed is not None:
                yield failed
                return
            while isinstance(done := await self._on_device(partial(self._step, key)), FitProgress):
                yield done
            yield done
        finally:
            # Before whatever is asked next: there is one thread. A fit that came to its end is not there any more.
            self._device.submit(self._replica.give_up_fit)

    def _not_loaded(self) -> NotLoaded | None:
        self._told = True
        return self._problem

    def _step(self, key: str) -> FitProgress | bytes | Failed:
        try:
            return self._replica.next_step(key) or self._replica.weights()
        except BackendError as e:
            return Failed.of(e)

    async def _by(self, weights: Weights, function: Callable[[], Any]) -> Any:
        return await self._on_device(partial(self._with, weights, function))

    def _with(self, weights: Weights, function: Callable[[], Any]) -> Any:
        try:
            # Of a front that was killed in the middle of one.
            self._replica.give_up_fit()
            if not self._replica.has(weights):
                self._replica.take(weights, None if weights.file is None else ray.get(weights.file))
            return function()
        except BackendError as e:
            return Failed.of(e)

    async def _on_device(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._device, function)
