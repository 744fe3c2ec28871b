"""Callers with tokens, at a server process with TLS; over gRPC and, on this host, without it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import yaml
from commands import gradwire
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from processes import ServerProcess

from gradwire.client import connect
from gradwire.client.errors import InvalidCall, Unauthenticated
from gradwire.client.server import Server
from gradwire.client.transport.same_host import SocketStream
from gradwire.v1 import errors_pb2, model_pb2, model_pb2_grpc, transport_pb2, transport_pb2_grpc

X = np.ones((2, 6), dtype=np.float32)


class Site(NamedTuple):
    """A server with tokens and TLS, and its files."""

    folder: Path
    server: ServerProcess
    alice: str

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens.yaml"

    @property
    def ca(self) -> Path:
        return self.folder / "certs" / "ca.pem"

    def connect(self, token: str | None, **settings: Any) -> Server:
        return connect(self.server.address, token=token, tls=self.ca, **settings)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, serve: Any, new_token: Any, transport: str) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    assert gradwire("tls", "init", str(folder / "certs")).returncode == 0
    alice = new_token(folder / "tokens.yaml", "alice")
    tls = {"certificate": "certs/server.pem", "key": "certs/server-key.pem"}
    with serve(folder, tls=tls, identity={"tokens": "tokens.yaml"}) as server:
        yield Site(folder, server, alice)


def test_a_caller_with_a_token_is_served(site: Site, transport: str) -> None:
    with site.connect(site.alice) as server:
        assert [card.name for card in server.models()] == ["sums"]
        np.testing.assert_allclose(server.estimator("sums").predict(X), [[6, -6]] * 2)
        assert server.usage("sums")[0].forward >= 2
        assert isinstance(server.connection.open_stream("Predict"), SocketStream) == (transport == "same host")


def test_without_a_token_nothing_is_answered_and_the_text_says_what_to_do(site: Site) -> None:
    with site.connect(None) as server:
        for call in (server.models, server.usage, lambda: server.card("sums"), lambda: predict(server)):
            with pytest.raises(Unauthenticated, match=r"requires a token: connect\(address, token=") as caught:
                call()
            assert caught.value.reason == errors_pb2.ERROR_REASON_UNAUTHENTICATED


def predict(server: Server) -> Any:
    """Without the card, which a stranger would not get."""
    from gradwire.v1 import estimator_pb2 as pb
    from gradwire.wire.frames import open_field

    opening = open_field(pb.PredictOpen(call=pb.CallHeader(model="sums")).SerializeToString())
    return server.connection.call("Predict", opening, [("x", X)])


def test_wrong_expired_and_revoked_tokens_are_told_the_same_and_the_log_says_which(
    site: Site, new_token: Any, eventually: Callable[..., None]
) -> None:
    revoked, expired = new_token(site.tokens, "bob"), new_token(site.tokens, "carol", "--expires", "1h")
    for token in (revoked, expired):
        eventually(lambda token=token: known(site, token))
    held = yaml.safe_load(site.tokens.read_text())
    held["tokens"] = [token for token in held["tokens"] if token["name"] != "bob"]
    next(token for token in held["tokens"] if token["name"] == "carol")["expires"] = "2026-01-01T00:00:00Z"
    site.tokens.write_text(yaml.safe_dump(held))
    for token in (revoked, expired):
        eventually(lambda token=token: not known(site, token))
    told = set()
    for token in (revoked, expired, "gradwire_wrong"):
        with site.connect(token) as server:
            for call in (server.models, lambda server=server: predict(server)):
                with pytest.raises(Unauthenticated) as caught:
                    call()
                told.add(str(caught.value))
    assert len(told) == 1, told
    log = site.server.log.read_text()
    for reason in ("unknown token", "a token of bob that was revoked", "a token of carol that expired"):
        assert reason in log


def known(site: Site, token: str) -> bool:
    with site.connect(token) as server:
        try:
            server.models()
        except Unauthenticated:
            return False
        return True


def test_a_token_that_is_revoked_ends_the_next_call_on_an_open_stream(
    site: Site, new_token: Any, eventually: Callable[..., None]
) -> None:
    dave = new_token(site.tokens, "dave")
    eventually(lambda: known(site, dave))
    with site.connect(dave) as server:
        remote = server.estimator("sums")
        remote.predict(X)
        (stream,) = server.connection._idle["Predict", "sums"]
        assert gradwire("token", "revoke", "dave", "--file", str(site.tokens)).returncode == 0
        eventually(lambda: not known(site, dave), 5.0)
        with pytest.raises(Unauthenticated, match="unknown, expired or revoked"):
            remote.predict(X)
        assert stream not in server.connection._idle["Predict", "sums"]


def test_a_token_that_expires_ends_the_next_call_on_an_open_stream(
    site: Site, new_token: Any, eventually: Callable[..., None]
) -> None:
    from datetime import datetime, timedelta, timezone

    soon = (datetime.now(timezone.utc) + timedelta(seconds=8)).isoformat()
    erin = new_token(site.tokens, "erin", "--expires", soon)
    eventually(lambda: known(site, erin), 7.0)
    with site.connect(erin) as server:
        remote = server.estimator("sums")
        remote.predict(X)
        eventually(lambda: datetime.now(timezone.utc).isoformat() > soon)
        with pytest.raises(Unauthenticated, match="unknown, expired or revoked"):
            remote.predict(X)


def test_two_tokens_of_a_name_are_good_at_the_same_time(site: Site, new_token: Any, eventually: Callable[..., None]) -> None:
    second = new_token(site.tokens, "alice")
    eventually(lambda: known(site, second))
    assert known(site, site.alice)


def test_a_broken_file_keeps_the_tokens_that_were_there(site: Site, eventually: Callable[..., None]) -> None:
    whole = site.tokens.read_text()
    site.tokens.write_text("tokens: [")
    eventually(lambda: "tokens.yaml reason=is not valid YAML" in site.server.log.read_text())
    assert known(site, site.alice)
    site.tokens.write_text(whole)


def raw_channel(site: Site) -> grpc.Channel:
    return grpc.secure_channel(site.server.address, grpc.ssl_channel_credentials(site.ca.read_bytes()))


def test_health_is_for_everybody_and_reflection_is_not(site: Site) -> None:
    with raw_channel(site) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="sums"))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerReflectionInfo(iter(asked)))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as caught:
            transport_pb2_grpc.TransportServiceStub(channel).GetSameHost(transport_pb2.GetSameHostRequest())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", f"Bearer {site.alice}"),)
        (answer,) = stub.ServerReflectionInfo(iter(asked), metadata=metadata)
        assert "gradwire.v1.ModelService" in {service.name for service in answer.list_services_response.service}


@pytest.mark.parametrize(
    "values",
    [["{}"], ["Basic {}"], ["Bearer"], ["Bearer  {}"], ["Bearer {} "], ["Bearer {}", "Bearer {}"]],
    ids=["no scheme", "another scheme", "nothing", "two spaces", "a space behind", "twice"],
)
def test_an_authorization_in_another_form_is_none(site: Site, values: list[str]) -> None:
    metadata = [("authorization", value.format(site.alice)) for value in values]
    with raw_channel(site) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListModels(model_pb2.ListModelsRequest(), metadata=metadata)
        # gRPC trims what stands around a value.
        if values == ["Bearer {} "]:
            return
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert site.alice not in caught.value.details()


@pytest.mark.parametrize("way", ["environment", "file", "file in the environment"])
def test_commands_take_the_token_from_where_others_do_not_see_it(site: Site, tmp_path: Path, way: str) -> None:
    (tmp_path / "alice.token").write_text(f"{site.alice}\n")
    options = ("--token-file", str(tmp_path / "alice.token")) if way == "file" else ()
    changes = {
        "environment": {"GRADWIRE_TOKEN": site.alice},
        "file": {},
        "file in the environment": {"GRADWIRE_TOKEN_FILE": str(tmp_path / "alice.token"), "GRADWIRE_TOKEN": "wrong"},
    }[way]
    ended = gradwire("models", site.server.address, *options, GRADWIRE_TLS=str(site.ca), **changes)
    assert ended.returncode == 0, ended.stderr
    assert "sums" in ended.stdout
    assert site.alice not in ended.stdout + ended.stderr


def test_commands_without_a_token_end_with_2(site: Site) -> None:
    ended = gradwire("models", site.server.address, "--tls", str(site.ca))
    assert ended.returncode == 2
    assert "GRADWIRE_TOKEN" in ended.stderr


@pytest.mark.parametrize("token", ["two words", "line\n", "", "é", 5], ids=["space", "newline", "empty", "accent", "number"])
def test_what_cannot_be_a_token_is_refused_before_it_is_sent_and_not_repeated(token: Any) -> None:
    with pytest.raises(InvalidCall, match="token is") as caught:
        connect("127.0.0.1:1", token=token)
    assert not token or str(token).strip() not in str(caught.value).replace("letters, digits", "") or token == 5


def test_no_token_is_in_the_servers_log(site: Site) -> None:
    """Runs last: the log is that of all that came before."""
    log = site.server.log.read_text()
    assert "a caller was refused" in log
    assert site.alice not in log
    assert not re.search(r"gradwire_[\w-]{20}", log)
    assert "gradwire_wrong" not in log
