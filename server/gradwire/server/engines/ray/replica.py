"""Replica as an actor of Ray Serve: one model and one computing thread.

Ray calls its methods. Errors of backends are returned as `ErrorMessage`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import ray

from gradwire.backends.backend import Array
from gradwire.backends.config import ModelConfig
from gradwire.backends.errors import BackendError
from gradwire.backends.load import load
from gradwire.backends.training import FitOptions, FitProgress
from gradwire.server.engines.facts import Facts
from gradwire.server.engines.replica import ErrorMessage, NotLoaded, Replica, Weights
from gradwire.server.system import freeze_loaded_objects, keep_freed_memory


class RayReplica:
    """One replica of a deployment.

    Args:
        config: The model's configuration.
        paths: Folders of the owner's code, which every node must have.
    """

    def __init__(self, config: ModelConfig, paths: list[str]) -> None:
        keep_freed_memory()
        sys.path[:0] = [path for path in paths if path not in sys.path]
        self._device = ThreadPoolExecutor(1, "gradwire-device")
        self._problem: NotLoaded | None = None
        self._problem_reported = False
        try:
            # On the computing thread: some frameworks keep state in the thread that loads a model.
            self._replica = self._device.submit(Replica, partial(load, config)).result()
        except BackendError as e:
            # Ray would restart a failing actor forever; this one stays, and reports the reason.
            self._problem = NotLoaded(ErrorMessage.of(e))
        freeze_loaded_objects()

    def check_health(self) -> None:
        """Raises if loading failed and the reason was reported; Ray then starts another replica, possibly elsewhere."""
        if self._problem is not None and self._problem_reported:
            raise RuntimeError(f"the model could not be loaded: {self._problem.why.text}")

    async def facts(self) -> Facts | NotLoaded:
        """Facts about the model, or the reason for which it was not loaded."""
        return self._not_loaded() or await self._on_device(lambda: self._replica.facts)

    async def compute(self, weights: Weights, method: str, rows: dict[str, Array], options: dict[str, Any]) -> Any:
        """As `Replica.compute`, with these weights."""
        return self._not_loaded() or await self._with_weights(weights, lambda: self._replica.compute(method, rows, options))

    async def file(self, weights: Weights) -> bytes | ErrorMessage | NotLoaded:
        """These weights as a file."""
        return self._not_loaded() or cast(bytes | ErrorMessage, await self._with_weights(weights, lambda: self._replica.weights()))

    async def fit(self, weights: Weights, key: str, x: Array, y: Array, options: FitOptions) -> AsyncIterator[Any]:
        """Fits from these weights: yields progress, and at the end the new weights as a file, or `ErrorMessage`."""
        async for done in self._fitting(weights, key, lambda: self._replica.begin_fit(x, y, options)):
            yield done

    async def fit_batches(self, weights: Weights, key: str, feed: Any, training_mode: bool) -> AsyncIterator[Any]:
        """As `fit`, on batches from a queue that ends with None."""
        batches: Iterator[Any] = iter(feed.get, None)
        async for done in self._fitting(weights, key, lambda: self._replica.begin_fit_batches(batches, training_mode)):
            yield done

    async def _fitting(self, weights: Weights, key: str, begin: Callable[[], None]) -> AsyncIterator[Any]:
        problem = self._not_loaded()
        if problem is not None:
            yield problem
            return
        try:
            error = await self._with_weights(weights, begin)
            if error is not None:
                yield error
                return
            while isinstance(done := await self._on_device(partial(self._step, key)), FitProgress):
                yield done
            yield done
        finally:
            # The single thread runs this before the next request. For a fit that has ended it does nothing.
            self._device.submit(self._replica.cancel_fit)

    def _not_loaded(self) -> NotLoaded | None:
        self._problem_reported = True
        return self._problem

    def _step(self, key: str) -> FitProgress | bytes | ErrorMessage:
        try:
            return self._replica.next_step(key) or self._replica.weights()
        except BackendError as e:
            return ErrorMessage.of(e)

    async def _with_weights(self, weights: Weights, function: Callable[[], Any]) -> Any:
        return await self._on_device(partial(self._take_and_call, weights, function))

    def _take_and_call(self, weights: Weights, function: Callable[[], Any]) -> Any:
        try:
            # A fit may be left over from a front that was killed.
            self._replica.cancel_fit()
            if not self._replica.has(weights):
                self._replica.take(weights, None if weights.file is None else ray.get(weights.file))
            return function()
        except BackendError as e:
            return ErrorMessage.of(e)

    async def _on_device(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._device, function)
