"""Checks of docker-compose.yml: the specification's schema, and the services' promises; no engine is needed."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from deploy.names import name_server
from deploy.nginx import free_ports, gateway, needs_nginx
from deploy.tools import DEPLOY, ROOT, passes, tool

from gradwire.client import connect
from gradwire.client.errors import Unavailable
from gradwire.server import serving

FILE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
SERVERS = sorted(name for name, service in SERVICES.items() if str(service["image"]).startswith("gradwire:"))


def test_it_is_what_the_specification_says() -> None:
    check = tool("check-jsonschema", "pip install check-jsonschema")
    assert "ok" in passes(check, "--builtin-schema", "vendor.compose-spec", str(FILE))


def test_without_a_profile_the_demo_is_served_behind_the_gateway() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"gateway", "torch"}
    assert SERVICES["torch"]["build"]["target"] == "demo"


def test_nothing_is_published_beyond_loopback() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert "gateway" in ports
    for name, published in ports.items():
        assert all(port.startswith("127.0.0.1:") for port in published), name


@pytest.mark.parametrize("name", SERVERS)
def test_servers_have_no_rights_and_a_root_that_is_read_only(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"][0] == "/tmp"
    assert "/var/lib/gradwire" in str(service["volumes"]) + str(service["tmpfs"])
    assert f" AS {service['build']['target']}\n" in (ROOT / "Dockerfile").read_text()


def test_each_gpu_has_a_server_of_its_own() -> None:
    devices = [SERVICES[name]["deploy"]["resources"]["reservations"]["devices"] for name in ("gpu0", "gpu1")]
    assert [one["device_ids"] for (one,) in devices] == [["0"], ["1"]]


def test_every_file_that_is_mounted_is_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if isinstance(volume, dict):
                assert (ROOT / volume["source"]).exists(), (name, volume["source"])


def test_the_gateway_leads_names_to_services_that_are_there() -> None:
    hosts = re.findall(r"(?m)^    (\S+) +(\S+):50051;", (DEPLOY / "compose/models.conf").read_text())
    known = {alias for service in SERVICES.values() for alias in _aliases(service)} | set(SERVICES)
    assert {host for _, host in hosts} <= known
    for pattern, host in hosts:
        if pattern == "default":
            continue
        configs = [DEPLOY / "compose" / folder / "serve.yaml" for folder in (host, "postgres" if host == "shared" else host)]
        [config] = {config for config in configs if config.exists()}
        for model in yaml.safe_load(config.read_text())["models"]:
            assert re.match(pattern.removeprefix("~"), model["name"]), config


def _aliases(service: dict[str, Any]) -> list[str]:
    networks = service.get("networks", [])
    return [] if isinstance(networks, list) else [alias for network in networks.values() for alias in network.get("aliases", [])]


def black_box(name: str, answer: float) -> dict[str, Any]:
    factory = lambda: lambda x: np.full((len(x), 2), answer)  # noqa: E731
    return {name: {"backend": "blackbox", "factory": factory, "input_shape": [3], "nb_classes": 2, "access": "scores"}}


def test_the_gateway_finds_groups_by_their_names_whenever_they_are_started(tmp_path: Path) -> None:
    """Compose's own map, with hosts on loopback addresses and another name server."""
    needs_nginx()
    [port] = free_ports(1)
    hosts = {"torch": ["127.0.0.2"], "gpy": ["127.0.0.3"], "shared": ["127.0.0.4", "127.0.0.5"]}
    x = np.zeros((1, 3), np.float32)

    def at(host: str) -> str:
        return f"{host}:{port}"

    with name_server(hosts) as resolver:
        models = (DEPLOY / "compose/models.conf").read_text().replace(":50051", f":{port}").replace("127.0.0.11", resolver)
        with gateway(tmp_path / "nginx", models) as address, connect(address) as server, ExitStack() as stack:
            stack.enter_context(serving(black_box("digits", 1), listen=at("127.0.0.2")))
            assert server.estimator("digits").predict(x)[0, 0] == 1
            with pytest.raises(Unavailable, match="no server of this group answers"):
                server.estimator("gpy-rings")  # its profile is not there yet
            with pytest.raises(Unavailable, match="no server of this group answers"):
                server.estimator("mxnet-digits")  # nor even its name
            stack.enter_context(serving(black_box("gpy-rings", 2), listen=at("127.0.0.3")))
            assert server.estimator("gpy-rings").predict(x)[0, 0] == 2
            for host in hosts["shared"]:
                stack.enter_context(serving(black_box("shared-digits", 3), listen=at(host)))
            shared, streams = server.estimator("shared-digits"), []
            for _ in range(10):  # a stream each, as ten threads would open
                assert shared.predict(x)[0, 0] == 3
                streams.append(server.connection._idle["Predict", "shared-digits"].pop())
        log = (tmp_path / "nginx" / "calls.log").read_text()
    for host in hosts["shared"]:
        assert f"shared-digits -> {at(host)} " in log
