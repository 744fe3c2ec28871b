"""Replicas of one model behind a handle of Ray Serve, which chooses a free one for each request.

Serve does not retry a request whose replica is lost; requests that are safe to retry are retried here until a replica answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import ray
from ray import serve
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.util.queue import Queue

from gradwire.backends.backend import Array
from gradwire.backends.training import FitOptions, FitProgress
from gradwire.server.engines.replica import ErrorMessage, NotLoaded, Weights
from gradwire.server.errors import ReplicaLost

log = logging.getLogger("gradwire.server")
T = TypeVar("T")

_CHECK_PERIOD_S = 2.0
_RETRY_PAUSE_S = 0.2
_MOST_DEATHS = 6
"""Replicas that may end during one request. It may be the cause, but several attempts may also reach one lost node."""
_LOST = (RayError, RayServeException)


class RayHandles:
    """Implementation of `Replicas` for Ray Serve.

    Args:
        name: Name of the model and of its deployment of `RayReplica`.
        app: Name of the application with the deployment.
        handle: Handle of the deployment.
        patience_s: Longest time without an answer or a running replica.
    """

    def __init__(self, name: str, app: str, handle: Any, patience_s: float) -> None:
        self._name = name
        self._patience_s = patience_s
        self._app = app
        self._handle = handle
        self._no_more_waiting = threading.Event()

    def stop_waiting(self) -> None:
        """Stops waiting for missing replicas; requests that a replica computes still wait for their results."""
        self._no_more_waiting.set()

    def facts(self) -> Any:
        """Facts about the model. Raises BackendError if it could not be loaded."""
        return self._call("facts", lambda: self._handle.facts.remote())

    def compute(self, weights: Weights, method: str, rows: dict[str, Array], options: dict[str, Any]) -> Any:
        """As in `Replicas`."""
        return self._call(method, lambda: self._handle.compute.remote(weights, method, rows, options))

    def file(self, weights: Weights) -> bytes:
        """As in `Replicas`."""
        return cast(bytes, self._call("save", lambda: self._handle.file.remote(weights)))

    def keep(self, file: bytes) -> Any:
        """Puts a file into Ray's object store."""
        return ray.put(file)

    def fit(self, weights: Weights, key: str, x: Array, y: Array, options: FitOptions) -> RayFitting:
        """As in `Replicas`."""
        self.facts()  # waits until a replica runs
        responses = self._handle.options(stream=True).fit.remote(weights, key, x, y, options)
        return RayFitting(self._name, responses)

    def fit_batches(self, weights: Weights, key: str, batches: Iterator[tuple[Array, Array]], training_mode: bool) -> RayFitting:
        """As in `Replicas`."""
        self.facts()
        feed = Queue(1, actor_options={"num_cpus": 0})
        responses = self._handle.options(stream=True).fit_batches.remote(weights, key, feed, training_mode)
        return RayFitting(self._name, responses, lambda: feed.put(next(batches, None)), lambda: feed.shutdown(force=True))

    def _call(self, method: str, send: Callable[[], Any]) -> Any:
        end_s, deaths = time.monotonic() + self._patience_s, 0
        while True:
            try:
                result = self._result(send())
            except RayTaskError:
                raise
            except _LOST as e:
                deaths += isinstance(e, ActorDiedError)
                if deaths >= _MOST_DEATHS:
                    raise ReplicaLost(f"{deaths} replicas of {self._name!r} have ended while they computed {method}") from e
                why = type(e).__name__
            else:
                if not isinstance(result, NotLoaded):
                    if isinstance(result, ErrorMessage):
                        raise result.error()
                    return result
                if method == "facts":
                    raise result.why.error()
                why = result.why.text
            if time.monotonic() > end_s or self._no_more_waiting.is_set():
                raise ReplicaLost(f"no replica of {self._name!r} has answered for {self._patience_s:g} s; try again later ({why})")
            log.warning("retrying on another replica", extra={"model": self._name, "operation": method, "reason": why})
            time.sleep(_RETRY_PAUSE_S)

    def _result(self, response: Any) -> Any:
        """Waits for a response while any replica runs; Serve alone would wait forever for missing replicas."""
        missing_since_s = None
        while True:
            try:
                return response.result(timeout_s=_CHECK_PERIOD_S)
            except TimeoutError:
                now_s = time.monotonic()
                if self._any_replica_runs():
                    missing_since_s = None
                    continue
                missing_since_s = missing_since_s or now_s
                if now_s - missing_since_s < self._patience_s and not self._no_more_waiting.is_set():
                    continue
                response.cancel()
                raise ReplicaLost(f"no replica of {self._name!r} is running; try again later") from None

    def _any_replica_runs(self) -> bool:
        try:
            deployment = serve.status().applications[self._app].deployments[self._name]
        except (KeyError, *_LOST):
            return False
        return any(state == "RUNNING" and count > 0 for state, count in deployment.replica_states.items())


class RayFitting:
    """A fit in one replica.

    Args:
        name: Name of the model.
        responses: Stream of the replica's responses.
        feed: Called before each step, to send its batch.
        ended: Called at the end.
    """

    def __init__(
        self, name: str, responses: Any, feed: Callable[[], None] = lambda: None, ended: Callable[[], None] = lambda: None
    ) -> None:
        self._name = name
        self._responses = responses
        self._feed = feed
        self._ended = ended

    def __next__(self) -> FitProgress | bytes:
        try:
            self._feed()
            done = next(self._responses)
        except RayTaskError:
            raise
        except (*_LOST, StopIteration) as e:
            raise ReplicaLost(f"the replica of {self._name!r} was lost during the fit; the model is unchanged: fit again") from e
        if isinstance(done, NotLoaded):
            raise ReplicaLost(f"the replica of {self._name!r} chosen for the fit has no model ({done.why.text}); fit again")
        if isinstance(done, ErrorMessage):
            raise done.error()
        if isinstance(done, bytes):
            self._ended()
        return cast(FitProgress | bytes, done)

    def close(self) -> None:
        """Cancels the fit."""
        try:
            self._responses.cancel()
        except _LOST as e:
            log.warning("a fit could not be cancelled", extra={"model": self._name, "reason": str(e)})
        finally:
            self._ended()
