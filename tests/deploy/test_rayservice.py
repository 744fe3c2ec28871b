"""deploy/ray by the schemas of kubernetes and of Ray Serve; KubeRay's own is not at hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.tools import DEPLOY, passes, tool
from ray.serve.schema import ServeDeploySchema

from gradwire.server.config.reading import read_config
from gradwire.server.process.ray_app import FRONT, application

RAY = DEPLOY / "ray"


@pytest.fixture(scope="module")
def resources() -> dict[str, dict[str, Any]]:
    return {item["kind"]: item for item in yaml.safe_load_all((RAY / "rayservice.yaml").read_text())}


def pods(resources: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    cluster = resources["RayService"]["spec"]["rayClusterConfig"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_pods_services_and_policies_are_what_kubernetes_takes(resources: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    made = [
        {"apiVersion": "v1", "kind": "Pod", "spec": pod["spec"], "metadata": {**pod["metadata"], "name": f"pod-{index}"}}
        for index, pod in enumerate(pods(resources))
    ]
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all([*made, resources["Service"], resources["NetworkPolicy"]]))
    passes(tool("kubernetes-validate", "pip install kubernetes-validate"), "--strict", "--no-warn", str(path))


def test_the_application_is_one_that_ray_serve_takes_and_finds(resources: dict[str, dict[str, Any]]) -> None:
    declared = ServeDeploySchema.model_validate(yaml.safe_load(resources["RayService"]["spec"]["serveConfigV2"]))
    [app] = declared.applications
    module, _, name = app.import_path.partition(":")
    assert getattr(importlib.import_module(module), name) is application
    mounted = {mount["mountPath"] for pod in pods(resources) for mount in pod["spec"]["containers"][0]["volumeMounts"]}
    assert str(Path(app.args["config"]).parent) in mounted
    assert declared.proxy_location.value == "Disabled"


def test_the_front_is_where_the_service_leads_to(resources: dict[str, dict[str, Any]]) -> None:
    head = resources["RayService"]["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert json.loads(json.loads(head["rayStartParams"]["resources"])) == {FRONT: 1}
    selected = resources["Service"]["spec"]["selector"].items()
    labelled = [selected <= pod["metadata"]["labels"].items() for pod in pods(resources)]
    assert labelled == [True, False]
    config = read_config(RAY / "serve.yaml")
    ports = {port["name"]: port["containerPort"] for port in head["template"]["spec"]["containers"][0]["ports"]}
    listens = {"grpc": config.listen, "health": config.health_listen, "metrics": config.metrics_listen}
    assert listens == {name: f"0.0.0.0:{port}" for name, port in ports.items()}
    assert config.engine == "ray"
