"""Listeners: beyond loopback only with TLS and identity; health on a separate one, without TLS."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from commands import gradwire
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from gradwire.client import connect
from gradwire.server.commands.tls import app
from gradwire.server.config.reading import parse_config
from gradwire.server.config.server import ServerConfig
from gradwire.server.errors import ConfigError
from gradwire.server.process.service import check_listening
from gradwire.server.trust.identity.listener import check_listener
from gradwire.v1 import model_pb2, model_pb2_grpc

TLS = {"certificate": "certs/server.pem", "key": "certs/server-key.pem"}
TOKENS = {"tokens": "tokens.yaml"}
MODELS = [{"name": "m", "same_as": "m"}]


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"listen": "0.0.0.0:50051"}, ["tls", "identity"]),
        ({"listen": "0.0.0.0:50051", "tls": TLS}, ["identity"]),
        ({"listen": "0.0.0.0:50051", "identity": TOKENS}, ["tls"]),
        ({"listen": "[::]:50051", "identity": TOKENS}, ["tls"]),
        ({"listen": "gpu-node:50051"}, ["tls", "identity"]),
        ({"listen": "0.0.0.0:50051", "tls": TLS, "identity": TOKENS}, []),
        ({"listen": "0.0.0.0:50051", "insecure": True}, []),
        ({"listen": "127.0.0.1:50051"}, []),
        ({"listen": "[::1]:50051"}, []),
        ({"listen": "localhost:50051"}, []),
        ({"listen": "unix:/run/gradwire.sock"}, []),
    ],
    ids=lambda value: "+".join(f"{key}" if key != "listen" else of for key, of in value.items()) if isinstance(value, dict) else "",
)
def test_beyond_loopback_both_are_needed_and_the_text_says_what_is_missing(settings: dict[str, Any], missing: list[str]) -> None:
    config = ServerConfig.model_validate({**settings, "models": MODELS})
    if not missing:
        check_listener(config)
        return
    with pytest.raises(ConfigError, match="insecure: true") as caught:
        check_listener(config)
    for key in ("tls", "identity"):
        assert (f"{key}: {{" in str(caught.value)) == (key in missing)


def test_a_server_that_anybody_could_reach_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "owner.py").write_text("def make():\n    return lambda x: x\n")
    model = {"name": "m", "backend": "blackbox", "factory": "owner:make", "input_shape": [2], "nb_classes": 2}
    config = tmp_path / "server.yaml"
    config.write_text(yaml.safe_dump({"listen": "0.0.0.0:0", "models": [model]}))
    ended = gradwire("serve", str(config))
    assert ended.returncode == 2
    assert "tls: {" in ended.stderr
    assert "identity: {" in ended.stderr


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"identity": {}}, "identity needs tokens, client_ca or both"),
        ({"identity": {"client_ca": "ca.pem"}}, "identity.client_ca needs tls"),
        ({"identity": {"tokens": "nowhere.yaml"}}, "gradwire token new NAME"),
        ({"identity": {"tokens": "broken.yaml"}}, "broken.yaml: tokens"),
        ({"identity": {"tokens": "tokens.yaml", "admins": ["a b"]}}, "identity.admins.0"),
        ({"tls": {"certificate": "certs/ca.pem", "key": "certs/server-key.pem"}}, "certificate and key do not match"),
        ({"tls": {"certificate": "tokens.yaml", "key": "certs/server-key.pem"}}, "contains no PEM certificate"),
        ({"health_listen": "anywhere"}, "health_listen"),
    ],
    ids=["nothing", "no tls", "no file", "a broken file", "admin", "pair", "no certificate", "health"],
)
def test_what_is_wrong_about_identity_is_told_at_the_start(tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    CliRunner().invoke(app, ["init", str(tmp_path / "certs")])
    (tmp_path / "tokens.yaml").write_text("tokens: []\n")
    (tmp_path / "broken.yaml").write_text("tokens: 5\n")
    # Nothing of the model is there: it is told before models are loaded, which may take minutes.
    model = {"name": "m", "backend": "blackbox", "factory": "owner_who_is_not_there:make", "input_shape": [2], "nb_classes": 2}
    content = {"listen": "127.0.0.1:0", "models": [model], **settings}
    with pytest.raises(ConfigError, match=re.escape(told)):
        check_listening(parse_config(content, tmp_path, "server.yaml"))


def test_the_health_port_serves_health_in_the_clear_and_nothing_else(
    tmp_path: Path, serve: Any, new_token: Any, free_port: int
) -> None:
    CliRunner().invoke(app, ["init", str(tmp_path / "certs"), "--client", "alice"])
    identity = {"client_ca": "certs/ca.pem"}
    with serve(tmp_path, tls=TLS, identity=identity, health_listen=f"127.0.0.1:{free_port}"):
        with grpc.insecure_channel(f"127.0.0.1:{free_port}") as channel:
            for name in ("", "sums"):
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.RpcError) as caught:
                model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=10)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_without_identity_everybody_is_served_as_before(tmp_path: Path, serve: Any) -> None:
    with serve(tmp_path) as process, connect(process.address, token="of-no-meaning") as server:
        assert [card.name for card in server.models()] == ["sums"]
