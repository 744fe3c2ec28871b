"""How the front reaches the replicas of one model: through a handle of Ray Serve, which knows where they are and which is free.

Serve does not send a request again whose replica is gone; what is safe to repeat is repeated here, until a replica answers.
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
from gradwire.server.engines.replica import Failed, NotLoaded, Weights
from gradwire.server.errors import ReplicaLost

log = logging.getLogger("gradwire.server")
T = TypeVar("T")

_LOOK_S = 2.0
_PAUSE_S = 0.2
_DEATHS = 6
"""As many replicas have died of one request, perhaps: on a node that is lost some more may have been asked."""
_GONE = (RayError, RayServeException)


class RayHandles:
    """A `Replicas` of Ray Serve's.

    Args:
        name: Of the model, which is that of its deployment of `RayReplica`.
        app: Of the application that this is part of.
        handle: Of the deployment.
        patience_s: How long nobody may answer.
    """

    def __init__(self, name: str, app: str, handle: Any, patience_s: float) -> None:
        self._name = name
        self._patience_s = patience_s
        self._app = app
        self._handle = handle
        self._given_up = threading.Event()

    def give_up(self) -> None:
        """Whoever waits for a replica now waits no longer; who waits for an answer does."""
        self._given_up.set()

    def facts(self) -> Any:
        """What there is to know of the model. Raises BackendError if it could not be loaded."""
        return self._asked("facts", lambda: self._handle.facts.remote())

    def compute(self, weights: Weights, method: str, rows: dict[str, Array], options: dict[str, Any]) -> Any:
        return self._asked(method, lambda: self._handle.compute.remote(weights, method, rows, options))

    def file(self, weights: Weights) -> bytes:
        return cast(bytes, self._asked("save", lambda: self._handle.file.remote(weights)))

    def keep(self, file: bytes) -> Any:
        return ray.put(file)

    def fit(self, weights: Weights, key: str, x: Array, y: Array, options: FitOptions) -> RayFitting:
        self.facts()  # there is somebody to ask
        responses = self._handle.options(stream=True).fit.remote(weights, key, x, y, options)
        return RayFitting(self._name, responses)

    def fit_batches(self, weights: Weights, key: str, batches: Iterator[tuple[Array, Array]], training_mode: bool) -> RayFitting:
        self.facts()
        feed = Queue(1, actor_options={"num_cpus": 0})
        responses = self._handle.options(stream=True).fit_batches.remote(weights, key, feed, training_mode)
        return RayFitting(self._name, responses, lambda: feed.put(next(batches, None)), lambda: feed.shutdown(force=True))

    def _asked(self, method: str, ask: Callable[[], Any]) -> Any:
        end_s, deaths = time.monotonic() + self._patience_s, 0
        while True:
            try:
                answer = self._answer(ask())
            except RayTaskError:
                raise
            except _GONE as e:
                deaths += isinstance(e, ActorDiedError)
                if deaths >= _DEATHS:
                    raise ReplicaLost(f"{deaths} replicas of {self._name!r} have ended while they were at {method}") from e
                why = type(e).__name__
            else:
                if not isinstance(answer, NotLoaded):
                    if isinstance(answer, Failed):
                        raise answer.error()
                    return answer
                if method == "facts":
                    raise answer.why.error()
                why = answer.why.text
            if time.monotonic() > end_s or self._given_up.is_set():
                raise ReplicaLost(f"no replica of {self._name!r} has answered for {self._patience_s:g} s; try again later ({why})")
            log.warning("another replica is asked", extra={"model": self._name, "operation": method, "reason": why})
            time.sleep(_PAUSE_S)

    def _answer(self, response: Any) -> Any:
        """Waits for as long as there is somebody who may answer: without, Serve would wait for ever."""
        nobody_since_s = None
        while True:
            try:
                return response.result(timeout_s=_LOOK_S)
            except TimeoutError:
                now_s = time.monotonic()
                if self._somebody():
                    nobody_since_s = None
                    continue
                nobody_since_s = nobody_since_s or now_s
                if now_s - nobody_since_s < self._patience_s and not self._given_up.is_set():
                    continue
                response.cancel()
                raise ReplicaLost(f"there is no replica of {self._name!r}; try again later") from None

    def _somebody(self) -> bool:
        try:
            deployment = serve.status().applications[self._app].deployments[self._name]
        except (KeyError, *_GONE):
            return False
        return any(state == "RUNNING" and count > 0 for state, count in deployment.replica_states.items())


class RayFitting:
    """A fit that one replica is at.

    Args:
        name: Of the model.
        responses: What the replica tells.
        feed: Called before each step, to hand over what it needs.
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
        except (*_GONE, StopIteration) as e:
            raise ReplicaLost(f"the replica of {self._name!r} that was fitting is gone; the model is as it was: fit again") from e
        if isinstance(done, NotLoaded):
            raise ReplicaLost(f"the replica of {self._name!r} that was to fit has no model ({done.why.text}); fit again")
        if isinstance(done, Failed):
            raise done.error()
        if isinstance(done, bytes):
            self._ended()
        return cast(FitProgress | bytes, done)

    def close(self) -> None:
        """Gives it up."""
        try:
            self._responses.cancel()
        except _GONE as e:
            log.warning("a fit could not be cancelled", extra={"model": self._name, "reason": str(e)})
        finally:
            self._ended()
