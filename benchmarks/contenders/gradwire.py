"""gradwire: a server in a process of its own, a client in this one, TCP on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from benchmarks.contenders.contender import Contender, Function, InThisProcess
from benchmarks.model import CONV_LAYER, DENSE_LAYER, INPUT_SHAPE, LEARNING_RATE, MOMENTUM, NB_CLASSES
from gradwire.client import RemoteEstimator, connect

NAME = "gradwire"

MODEL = f"""
  - name: cnn
    backend: torch
    factory: benchmarks.model:cnn
    loss: torch.nn.CrossEntropyLoss
    optimizer: {{path: torch.optim.SGD, args: {{lr: {LEARNING_RATE}, momentum: {MOMENTUM}}}}}
    input_shape: {list(INPUT_SHAPE)}
    nb_classes: {NB_CLASSES}
    clip_values: [0.0, 1.0]
    access: trainer
"""


@contextmanager
def gradwire() -> Iterator[Contender]:
    """A server with its defaults, and a client's estimator."""
    with serve() as address, connect(address) as server:
        versions = {name: version(name) for name in ("gradwire", "grpcio", "protobuf")}
        yield InThisProcess(NAME, functions(server.estimator("cnn")), versions)


def functions(estimator: RemoteEstimator) -> dict[str, Function]:
    """The operations, by the estimator's methods."""
    return {
        "predict": lambda i: estimator.predict(i.x),
        "loss": lambda i: estimator.compute_loss(i.x, i.y),
        "loss_gradient": lambda i: estimator.loss_gradient(i.x, i.y),
        "class_gradient_rows": lambda i: estimator.class_gradient(i.x, label=i.y),
        "class_gradient_one": lambda i: estimator.class_gradient(i.x, label=3),
        "class_gradient_all": lambda i: estimator.class_gradient(i.x),
        "activations_dense": lambda i: estimator.get_activations(i.x, DENSE_LAYER),
        "activations_conv": lambda i: estimator.get_activations(i.x, CONV_LAYER),
        "vjp": lambda i: estimator.vjp(i.x, i.cotangent),
        "fit": lambda i: estimator.fit(i.x, i.y, batch_size=i.batch_size, nb_epochs=1),
        "reset": lambda _: estimator.reset(),
    }


@contextmanager
def serve(models: str = MODEL, environment: Path = Path(sys.executable).parent) -> Iterator[str]:
    """``gradwire serve`` on a free port, as long as the context lasts; yields the address.

    Args:
        models: The list of models, in YAML.
        environment: The folder of the programs of the Python environment to run it in.
    """
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as folder:
        config = Path(folder) / "serve.yaml"
        config.write_text(f"listen: 127.0.0.1:0\nmodels:{models}")
        command = [str(environment / "gradwire"), "serve", str(config)]
        log = Path(folder) / "log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("serving on "):
                raise RuntimeError(f"gradwire serve did not start:\n{line}{log.read_text()}")
            yield line.split()[2]
        finally:
            process.terminate()
            process.wait(30)
