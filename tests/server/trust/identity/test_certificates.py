"""Callers with certificates, servers whose certificate is replaced, and `gradwire tls`, over real TLS."""

from __future__ import annotations

import re
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import trustme
import yaml
from commands import gradwire
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from google.protobuf.message import Message
from processes import ServerProcess
from typer.testing import CliRunner

from gradwire.client import connect
from gradwire.client.errors import InvalidCall, Unauthenticated, Unavailable
from gradwire.client.server import Server
from gradwire.client.settings import Retry
from gradwire.client.transport.same_host import SocketStream
from gradwire.server.commands.tls import app
from gradwire.server.config.identity import IdentityConfig
from gradwire.server.errors import Unauthenticated as Refused
from gradwire.server.trust.identity import authority as authorities
from gradwire.server.trust.identity.authority import Authority
from gradwire.server.trust.identity.callers import Identity
from gradwire.server.trust.identity.certificates import certified
from gradwire.v1 import model_pb2, model_pb2_grpc, transport_pb2, transport_pb2_grpc

X = np.ones((2, 6), dtype=np.float32)


class Site(NamedTuple):
    """A server that asks for certificates, and the folder of its authority."""

    certs: Path
    server: ServerProcess

    def pair(self, name: str) -> tuple[Path, Path]:
        return self.certs / f"client-{name}.pem", self.certs / f"client-{name}-key.pem"

    def connect(self, name: str | None, **settings: Any) -> Server:
        certificate = None if name is None else self.pair(name)
        quick = {"retry": Retry(attempts=2), "timeout_s": 20.0}
        return connect(self.server.address, tls=self.certs / "ca.pem", certificate=certificate, **{**quick, **settings})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, serve: Any, transport: str) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    certs = folder / "certs"
    assert CliRunner().invoke(app, ["init", str(certs), "--client", "alice", "--client", "bob"]).exit_code == 0
    tls = {"certificate": "certs/server.pem", "key": "certs/server-key.pem"}
    with serve(folder, tls=tls, identity={"client_ca": "certs/ca.pem"}) as server:
        yield Site(certs, server)


def test_a_caller_with_a_certificate_is_served(site: Site, transport: str) -> None:
    with site.connect("alice") as server:
        np.testing.assert_allclose(server.estimator("sums").predict(X), [[6, -6]] * 2)
        assert isinstance(server.connection.open_stream("Predict"), SocketStream) == (transport == "same host")


def test_who_shows_no_certificate_is_not_even_connected(site: Site) -> None:
    with site.connect(None) as server, pytest.raises(Unavailable, match="certificate"):
        server.models()


def refused(site: Site, pair: tuple[Path, Path]) -> bool:
    settings = {"retry": Retry(attempts=1), "timeout_s": 20.0}
    with connect(site.server.address, tls=site.certs / "ca.pem", certificate=pair, **settings) as server:
        try:
            server.models()
        except Unavailable:
            return True
        return False


def test_certificates_of_others_of_servers_and_from_the_past_are_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Authority.make(tmp_path).client("alice", 1)
    assert refused(site, (tmp_path / "client-alice.pem", tmp_path / "client-alice-key.pem"))
    assert refused(site, (site.certs / "server.pem", site.certs / "server-key.pem"))
    monkeypatch.setattr(authorities, "_BEFORE", timedelta(days=3))
    Authority(site.certs).client("late", -1)
    assert refused(site, site.pair("late"))
    assert not refused(site, site.pair("bob"))


def test_a_certificate_that_names_nobody_is_told_so(site: Site, tmp_path: Path) -> None:
    authority = Authority(site.certs)
    authority._issue("client-nobody", "no principal!", [], ExtendedKeyUsageOID.CLIENT_AUTH, 1)
    with site.connect("nobody") as server, pytest.raises(Unauthenticated, match="names no valid principal"):
        server.models()
    assert "not a principal's name" in site.server.log.read_text()


def test_a_ticket_speaks_for_the_certificate_on_the_socket_and_for_nobody_over_grpc(site: Site) -> None:
    with site.connect("alice") as server:
        stub = transport_pb2_grpc.TransportServiceStub(server.connection.channel())
        told = stub.GetSameHost(transport_pb2.GetSameHostRequest())
        assert ":alice:" in told.ticket
    identity, context = Identity(IdentityConfig(client_ca=site.certs / "ca.pem")), SocketContext()
    for ticket in ("", told.ticket, "9e99:alice:", "9e99:alice:00"):
        context.metadata = (("gradwire-ticket", ticket),)
        with pytest.raises(Refused):
            identity.principal(context)
    with pytest.raises(Refused):
        identity.ticket(context)


class SocketContext:
    """A stream of the socket on this host, which knows nothing of certificates."""

    metadata: tuple[tuple[str, str], ...] = ()

    def peer(self) -> str:
        return "same-host:1:test"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata


class GrpcContext(SocketContext):
    """A call over gRPC with a certificate."""

    def __init__(self, pem: bytes) -> None:
        self.pem = pem

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self.pem]}


def test_a_certificate_whose_time_ends_while_a_stream_is_open_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Authority.make(tmp_path).client("alice", 1)
    pem = (tmp_path / "client-alice.pem").read_bytes()
    identity = Identity(IdentityConfig(client_ca=tmp_path / "ca.pem"))
    over_grpc = identity.caller(GrpcContext(pem))
    on_this_host = SocketContext()
    on_this_host.metadata = (("gradwire-ticket", identity.ticket(GrpcContext(pem))),)
    callers = [over_grpc, identity.caller(on_this_host)]
    assert [caller.principal() for caller in callers] == ["alice", "alice"]
    later_s = certified(pem).until_s + 1
    monkeypatch.setattr("gradwire.server.trust.identity.callers.time.time", lambda: later_s)
    for caller in callers:
        with pytest.raises(Refused, match="has expired"):
            caller.principal()


def test_a_client_whose_certificate_is_over_takes_up_the_one_that_lies_in_its_place(
    site: Site, eventually: Callable[..., None]
) -> None:
    Authority(site.certs).client("erin", 12 / 86_400)  # type: ignore[arg-type]  # twelve seconds
    with site.connect("erin") as server:
        remote = server.estimator("sums")
        remote.predict(X)
        until_s = certified(site.pair("erin")[0].read_bytes()).until_s
        eventually(lambda: time.time() > until_s)
        with pytest.raises(Unauthenticated, match="has expired"):
            remote.predict(X)
        Authority(site.certs).client("erin", 1)
        assert remote.predict(X).shape == (2, 2)


def test_without_a_common_name_the_only_other_name_counts() -> None:
    ca = trustme.CA()
    assert certified(ca.issue_cert("alice@example.org").cert_chain_pems[0].bytes()).name == "alice@example.org"
    assert certified(ca.issue_cert("node-7.example.org").cert_chain_pems[0].bytes()).name == "node-7.example.org"
    assert certified(ca.issue_cert("x@example.org", common_name="alice").cert_chain_pems[0].bytes()).name == "alice"
    with pytest.raises(ValueError, match="names 2 principals"):
        certified(ca.issue_cert("a.example.org", "b.example.org").cert_chain_pems[0].bytes())


def shown(site: Site) -> str:
    """The certificate that a new connection gets to see."""
    host, _, port = site.server.address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


def test_a_new_server_certificate_is_shown_to_new_connections_and_open_ones_stay(
    site: Site, eventually: Callable[..., None]
) -> None:
    before = shown(site)
    with site.connect("alice") as server:
        remote = server.estimator("sums")
        remote.predict(X)
        assert CliRunner().invoke(app, ["server", str(site.certs)]).exit_code == 0
        eventually(lambda: shown(site) != before)
        assert shown(site) == (site.certs / "server.pem").read_text()
        remote.predict(X)
    with site.connect("alice") as server:
        assert server.models()


def test_a_certificate_without_its_key_is_not_taken(site: Site, eventually: Callable[..., None]) -> None:
    before = shown(site)
    old = (site.certs / "server.pem").read_text()
    (site.certs / "server.pem").write_text((site.certs / "client-bob.pem").read_text())
    eventually(lambda: "certificate and key do not match" in site.server.log.read_text())
    assert shown(site) == before
    assert not refused(site, site.pair("alice"))
    (site.certs / "server.pem").write_text(old)


def test_clients_of_an_authority_that_was_taken_out_are_refused_from_then_on(
    site: Site, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    own = (site.certs / "ca.pem").read_text()
    Authority.make(tmp_path).client("guest", 1)
    guest = (tmp_path / "client-guest.pem", tmp_path / "client-guest-key.pem")
    (site.certs / "ca.pem").write_text(own + (tmp_path / "ca.pem").read_text())
    eventually(lambda: not refused(site, guest))
    (site.certs / "ca.pem").write_text(own)
    eventually(lambda: refused(site, guest))
    assert not refused(site, site.pair("alice"))


def test_with_tokens_too_a_token_says_who_calls_and_a_wrong_one_is_refused(tmp_path: Path, serve: Any, new_token: Any) -> None:
    CliRunner().invoke(app, ["init", str(tmp_path / "certs"), "--client", "node"])
    token = new_token(tmp_path / "tokens.yaml", "alice")
    tls = {"certificate": "certs/server.pem", "key": "certs/server-key.pem"}
    with serve(tmp_path, tls=tls, identity={"client_ca": "certs/ca.pem", "tokens": "tokens.yaml"}) as process:
        site = Site(tmp_path / "certs", process)
        for settings in ({}, {"token": token}):
            with site.connect("node", **settings) as server:
                assert server.estimator("sums").predict(X).shape == (2, 2)
        with site.connect("node", token="gradwire_wrong") as server, pytest.raises(Unauthenticated):
            server.models()
        with site.connect(None, token=token) as server, pytest.raises(Unavailable):
            server.models()


# gradwire tls


def test_what_init_prints_works_when_it_is_pasted(tmp_path: Path, serve: Any) -> None:
    ended = gradwire("tls", "init", str(tmp_path / "my certs"), "--client", "alice")
    assert ended.returncode == 0, ended.stderr
    config, call = re.fullmatch(r"# In the server's YAML file:\n(.*)\n# In alice's Python:\n(.*)", ended.stdout, re.DOTALL).groups()  # type: ignore[union-attr]
    with serve(tmp_path, **yaml.safe_load(config)) as process:
        with eval(call.replace("127.0.0.1:50051", process.address), {"connect": connect}) as server:
            assert server.estimator("sums").predict(X).shape == (2, 2)


def test_keys_are_for_their_owner_alone_and_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    runner = CliRunner()
    init = ["init", str(tmp_path), "--host", "gpu-node", "--host", "10.0.0.7", "--client", "alice"]
    assert runner.invoke(app, init).exit_code == 0
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*-key.pem")} == {0o600}
    server = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gpu-node", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "127.0.0.1", "::1"]
    assert timedelta(days=364) < server.not_valid_after_utc - datetime.now(timezone.utc) < timedelta(days=366)
    assert server.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "gpu-node"
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = runner.invoke(app, init)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert runner.invoke(app, ["client", str(tmp_path), "alice"]).exit_code == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert runner.invoke(app, [*init, "--force"]).exit_code == 0
    assert (tmp_path / "ca.pem").read_bytes() != before["ca.pem"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["init", "DIR", "--host", "gpu-node:50051"], "without a port"),
        (["init", "DIR", "--client", "a b"], "not a principal's name"),
        (["client", "DIR", "alice"], "gradwire tls init"),
        (["server", "DIR"], "gradwire tls init"),
    ],
    ids=["a host with a port", "a client's name", "a client without authority", "a server without authority"],
)
def test_what_is_asked_for_wrong_is_told(tmp_path: Path, arguments: list[str], told: str) -> None:
    ended = CliRunner().invoke(app, [str(tmp_path) if argument == "DIR" else argument for argument in arguments])
    assert ended.exit_code == 2
    assert told in " ".join(ended.stderr.split())


def test_a_certificate_goes_with_tls_and_with_its_key(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["init", str(tmp_path), "--client", "alice"])
    certificate, key = tmp_path / "client-alice.pem", tmp_path / "client-alice-key.pem"
    for pair, tls, told in (
        ((certificate, key), None, "pass tls="),
        ((key, certificate), True, "in this order"),
        (certificate, True, "must be two files"),
        ((certificate, tmp_path / "nowhere.pem"), True, "nowhere.pem"),
    ):
        with pytest.raises(InvalidCall, match=told):
            connect("127.0.0.1:1", tls=tls, certificate=pair)  # type: ignore[arg-type]
    ended = gradwire("models", "127.0.0.1:1", "--tls", "system", "--certificate", str(certificate))
    assert ended.returncode == 2
    assert "--key" in ended.stderr


def test_a_ticket_is_not_asked_for_where_no_certificates_are() -> None:
    assert Identity(None).ticket(SocketContext()) == ""
    assert Identity(None).principal(SocketContext()) == "anonymous"


def test_over_grpc_a_ticket_without_a_certificate_is_nothing(site: Site) -> None:
    with site.connect("alice") as server:
        ticket = (
            transport_pb2_grpc.TransportServiceStub(server.connection.channel())
            .GetSameHost(transport_pb2.GetSameHostRequest())
            .ticket
        )
    plain = grpc.ssl_channel_credentials((site.certs / "ca.pem").read_bytes())
    with grpc.secure_channel(site.server.address, plain) as channel, pytest.raises(grpc.RpcError) as caught:
        request: Message = model_pb2.ListModelsRequest()
        model_pb2_grpc.ModelServiceStub(channel).ListModels(request, metadata=(("gradwire-ticket", ticket),), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
