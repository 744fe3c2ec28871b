"""Every call names its model in a header, so that one address may lead to several servers."""

from __future__ import annotations

from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest

from gradwire.client import Server, connect
from gradwire.client.errors import GradwireError
from gradwire.client.grants import Grant
from gradwire.client.transport.routing import naming
from gradwire.server import serving
from gradwire.wire.frames import open_field


class Headers(grpc.ServerInterceptor):  # type: ignore[misc]
    """Answers nothing, and keeps the headers of what is asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        self.seen.append((method, dict(details.invocation_metadata).get("gradwire-model")))
        return None


def test_calls_about_a_model_name_it_and_others_name_none() -> None:
    headers = Headers()
    backend = grpc.server(futures.ThreadPoolExecutor(1), interceptors=[headers])
    port = backend.add_insecure_port("127.0.0.1:0")
    backend.start()
    x = np.zeros((1, 3), np.float32)
    with connect(f"127.0.0.1:{port}", same_host=False) as server:
        asked = [
            ("ListModels", None, lambda: server.models()),
            ("GetModel", "digits", lambda: server.card("digits")),
            ("GetUsage", None, lambda: server.usage()),
            ("GetUsage", "digits", lambda: server.usage("digits")),
            ("PutGrant", "digits", lambda: server.grants.put(Grant("alice", "digits", "labels"))),
            ("RevokeGrant", "digits", lambda: server.grants.revoke("alice", "digits")),
            ("ListGrants", None, lambda: server.grants.list()),
            ("Predict", "digits~1", lambda: server.connection.call("Predict", open_field(b""), [("x", x)], "digits~1")),
        ]
        for _, _, ask in asked:
            with pytest.raises(GradwireError):
                ask()
    backend.stop(0).wait()
    assert headers.seen == [(method, model) for method, model, _ in asked]


@pytest.mark.parametrize("name", ["", "ä", "a b", "a\nb", "a" * 20_000], ids=["empty", "umlaut", "space", "line", "long"])
def test_what_is_no_models_name_is_not_sent(name: str) -> None:
    assert naming(name, (("authorization", "Bearer x"),)) == (("authorization", "Bearer x"),)


def idle(server: Server) -> dict[tuple[str, str], int]:
    return {way: len(streams) for way, streams in server.connection._idle.items()}


@pytest.mark.parametrize("same_host", [True, False], ids=["same host", "gRPC"])
def test_a_stream_carries_calls_of_one_model(same_host: bool) -> None:
    model = {"backend": "blackbox", "factory": lambda: lambda x: x[:, :2], "input_shape": [3], "nb_classes": 2}
    with serving({"a": model, "b": model}) as address, connect(address, same_host=same_host) as server:
        for name in ("a", "b", "a", "b"):
            np.testing.assert_array_equal(server.estimator(name).predict(np.ones((2, 3), np.float32)), np.ones((2, 2)))
        assert idle(server) == {("Predict", "a"): 1, ("Predict", "b"): 1}


def test_servers_behind_one_name_take_turns_stream_by_stream() -> None:
    model = {"backend": "blackbox", "factory": lambda: lambda x: x[:, :2], "input_shape": [3], "nb_classes": 2}
    x = np.ones((1, 3), np.float32)
    with serving({"a": model}) as first, serving({"a": model}) as second:
        both = ",".join((first, second))
        with connect(f"ipv4:{both}", same_host=False) as server:
            remote, streams = server.estimator("a"), []
            for _ in range(200):  # until both are connected to, there is only one to take
                remote.predict(x)
                ((_, idle),) = server.connection._idle.items()
                streams.append(idle.pop())
        with connect(first) as one, connect(second) as other:
            used = [side.estimator("a").usage().forward for side in (one, other)]
    assert sum(used) == 200
    assert min(used) > 50
