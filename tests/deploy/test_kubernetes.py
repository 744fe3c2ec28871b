"""Checks of deploy/kubernetes: the schemas of kubernetes, and the servers' needs; no cluster is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.tools import DEPLOY, passes, tool

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
OPERATORS = {"PrometheusRule", "ServiceMonitor"}
"""Kinds of the Prometheus operator, for which kubernetes has no schema."""
WHOLE = sorted(
    str(path.relative_to(KUBERNETES))
    for path in [*KUBERNETES.glob("base/*.yaml"), *KUBERNETES.glob("components/*/*.yaml")]
    if path.name not in ("kustomization.yaml", "serve.yaml", "servicemonitor.yaml", "prometheusrule.yaml")
)


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def rendered(overlay: str) -> list[dict[str, Any]]:
    kubectl = tool("kubectl", "https://kubernetes.io/docs/tasks/tools")
    return list(yaml.safe_load_all(passes(kubectl, "kustomize", str(KUBERNETES / "overlays" / overlay))))


def one(rendered: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    [found] = [item for item in rendered if item["kind"] == kind]
    return found


@pytest.mark.parametrize("path", WHOLE)
def test_every_resource_is_what_kubernetes_takes(path: str) -> None:
    validate = tool("kubernetes-validate", "pip install kubernetes-validate")
    passes(validate, "--strict", "--no-warn", str(KUBERNETES / path))


def test_an_overlay_is_what_kubernetes_takes(rendered: list[dict[str, Any]], tmp_path: Path) -> None:
    validate = tool("kubernetes-validate", "pip install kubernetes-validate")
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(item for item in rendered if item["kind"] not in OPERATORS))
    passes(validate, "--strict", "--no-warn", str(tmp_path / "all.yaml"))


def test_selectors_find_the_overlays_own_pods_and_no_others(rendered: list[dict[str, Any]], overlay: str) -> None:
    own = {"app.kubernetes.io/name": "gradwire", "gradwire/group": overlay}
    deployment = one(rendered, "Deployment")["spec"]
    assert deployment["template"]["metadata"]["labels"] == own
    assert deployment["selector"]["matchLabels"] == own
    service = one(rendered, "Service")["spec"]
    assert service["selector"] == own
    assert service["clusterIP"] == "None"
    assert one(rendered, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == own
    policy = one(rendered, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == own
    # Callers are of no group.
    assert "gradwire/group" not in str(policy["ingress"]) + str(policy["egress"])
    for monitor in (item for item in rendered if item["kind"] == "ServiceMonitor"):
        assert monitor["spec"]["selector"]["matchLabels"] == own


def test_pods_have_no_rights_and_all_probes_ask_the_clear_port(rendered: list[dict[str, Any]]) -> None:
    pod = one(rendered, "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsNonRoot"]) == (10001, True)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    config = served(rendered)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert config["health_listen"] == f"0.0.0.0:{container[probe]['grpc']['port']}"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert [config[key] for key in ("listen", "metrics_listen")] == [f"0.0.0.0:{ports[name]}" for name in ("grpc", "metrics")]


def test_a_pod_has_time_to_drain(rendered: list[dict[str, Any]]) -> None:
    pod = one(rendered, "Deployment")["spec"]["template"]["spec"]
    pause_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause_s + served(rendered).get("drain_timeout_s", 30) + 10


def test_callers_find_servers_that_are_added(rendered: list[dict[str, Any]]) -> None:
    config = served(rendered)
    if one(rendered, "Deployment")["spec"]["strategy"]["type"] == "RollingUpdate":
        assert config["limits"]["max_connection_age_s"] <= 600


def test_what_is_mounted_is_there_and_what_the_server_writes_to_is_a_volume(rendered: list[dict[str, Any]]) -> None:
    pod = one(rendered, "Deployment")["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts.values()) == set(volumes)
    assert {"/tmp", served(rendered)["state_dir"]} <= set(mounts)
    for volume in volumes.values():
        assert len(volume) == 2, f"{volume['name']} is two things: {volume}"
    claims = {item["metadata"]["name"] for item in rendered if item["kind"] == "PersistentVolumeClaim"}
    assert {
        volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values() if "persistentVolumeClaim" in volume
    } == claims
    # Only one server at a time has a volume of its own kind; several need a store that they share.
    deployment = one(rendered, "Deployment")["spec"]
    assert (deployment["strategy"]["type"] == "Recreate") == bool(claims)
    assert bool(claims) == ("store" not in served(rendered))


def test_servers_on_gpus_ask_for_one(rendered: list[dict[str, Any]]) -> None:
    [container] = one(rendered, "Deployment")["spec"]["template"]["spec"]["containers"]
    asked = container["resources"]["limits"].get("nvidia.com/gpu", 0)
    assert asked == any(model.get("device", "cpu") == "cuda:0" for model in served(rendered)["models"])


def test_the_alerts_are_those_of_the_file(rendered: list[dict[str, Any]]) -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())["groups"]
    for item in rendered:
        if item["kind"] == "PrometheusRule":
            assert item["spec"]["groups"] == groups


def served(rendered: list[dict[str, Any]]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(one(rendered, "ConfigMap")["data"]["serve.yaml"])
    return config
