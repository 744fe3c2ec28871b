"""How the front reaches the replicas of one model: through a handle of Ray Serve, which knows where they are and which is free.

Serve does not send a request again whose replica is gone; what is safe to repeat is repeated here, until a replica answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import ray
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.util.queue import Queue

from gradwire.backends.backend import Array
from gradwire.backends.training import FitOptions, FitProgress
from gradwire.server.replicas.errors import ReplicaLost
from gradwire.server.replicas.replica import Failed, Weights

log = logging.getLogger("gradwire.server")
T = TypeVar("T")

_PATIENCE_S = 120.0
"""How long nobody may answer: a node that is gone is noticed, and its replicas are started elsewhere, in less."""
_PAUSE_S = 0.2
_GONE = (RayError, RayServeException)


class RayHandles:
    """A `Replicas` of Ray Serve's.

    Args:
        name: Of the model, for errors and the log.
        handle: Of its deployment of `RayReplica`.
    """

    def __init__(self, name: str, handle: Any) -> None:
        self._name = name
        self._handle = handle

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
        responses = self._handle.options(stream=True).fit.remote(weights, key, x, y, options)
        return RayFitting(self._name, responses)

    def fit_batches(self, weights: Weights, key: str, batches: Iterator[tuple[Array, Array]], training_mode: bool) -> RayFitting:
        feed = Queue(1, actor_options={"num_cpus": 0})
        responses = self._handle.options(stream=True).fit_batches.remote(weights, key, feed, training_mode)
        return RayFitting(self._name, responses, lambda: feed.put(next(batches, None)), lambda: feed.shutdown(force=True))

    def _asked(self, method: str, ask: Callable[[], Any]) -> Any:
        end_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                answer = ask().result()
            except RayTaskError:
                raise
            except _GONE as e:
                if time.monotonic() > end_s:
                    raise ReplicaLost(f"no replica of {self._name!r} has answered for {_PATIENCE_S:g} s; try again later") from e
                extra = {"model": self._name, "operation": method, "reason": type(e).__name__}
                log.warning("a replica is gone; another one is asked", extra=extra)
                time.sleep(_PAUSE_S)
                continue
            if isinstance(answer, Failed):
                raise answer.error()
            return answer


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
        if isinstance(done, Failed):
            raise done.error()
        if isinstance(done, bytes):
            self._ended()
        return cast(FitProgress | bytes, done)

    def close(self) -> None:
        """Gives it up."""
        self._responses.cancel()
        self._ended()
