"""gradwire: a server in a process of its own and a client in another, with the defaults of both."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.contenders import worker
from benchmarks.contenders.contender import Contender, Function
from benchmarks.contenders.remote import Remote, client
from benchmarks.model import LEARNING_RATE, MOMENTUM, NB_CLASSES
from benchmarks.subject import CNN, SUBJECTS, Subject
from gradwire.client import RemoteEstimator, connect

NAME = "gradwire"


def model(subject: Subject, *more: str) -> str:
    """Makes a subject's entry in the list of models, in YAML; ``more`` are further keys."""
    return f"""
  - name: {subject.name}
    backend: torch
    factory: {subject.factory}
    loss: torch.nn.CrossEntropyLoss
    optimizer: {{path: torch.optim.SGD, args: {{lr: {LEARNING_RATE}, momentum: {MOMENTUM}}}}}
    input_shape: {list(subject.input_shape)}
    nb_classes: {NB_CLASSES}
    clip_values: [0.0, 1.0]
    access: trainer
""" + "".join(f"    {line}\n" for line in more)


MODEL = model(CNN)


@contextmanager
def gradwire(subject: Subject = CNN) -> Iterator[Contender]:
    """Runs a server and a client with their defaults: on the same host they use the Unix socket."""
    with (
        tempfile.TemporaryDirectory(prefix="gradwire-bench-") as folder,
        serve(model(subject)) as address,
        client(client_command(address, subject), Path(folder) / "log", NAME) as pipe,
    ):
        pipe.ready()
        yield Remote(NAME, "default", pipe, functions(None, subject))


def client_command(address: str, subject: Subject = CNN) -> Sequence[str]:
    """Makes the command of a client process."""
    return (sys.executable, "-m", "benchmarks.contenders.gradwire", address, subject.name)


def functions(estimator: RemoteEstimator | None, subject: Subject = CNN) -> dict[str, Function]:
    """Maps operations to an estimator's methods; without an estimator only their names can be used."""
    it: RemoteEstimator = estimator  # type: ignore[assignment]  # without one, only the names are used
    return {
        "predict": lambda i: it.predict(i.x),
        "loss": lambda i: it.compute_loss(i.x, i.y),
        "loss_gradient": lambda i: it.loss_gradient(i.x, i.y),
        "class_gradient_rows": lambda i: it.class_gradient(i.x, label=i.y),
        "class_gradient_one": lambda i: it.class_gradient(i.x, label=3),
        "class_gradient_all": lambda i: it.class_gradient(i.x),
        "activations_dense": lambda i: it.get_activations(i.x, subject.dense_layer),
        "activations_conv": lambda i: it.get_activations(i.x, subject.conv_layer),
        "vjp": lambda i: it.vjp(i.x, i.cotangent),
        "fit": lambda i: it.fit(i.x, i.y, batch_size=i.batch_size, nb_epochs=1),
        "reset": lambda _: it.reset(),
    }


@dataclass(frozen=True)
class Served:
    """A server process that is ready."""

    address: str
    pid: int


@contextmanager
def serve(models: str = MODEL, environment: Path = Path(sys.executable).parent) -> Iterator[str]:
    """Runs a server as `served` does; yields the address."""
    with served(models, environment) as server:
        yield server.address


@contextmanager
def served(
    models: str = MODEL, environment: Path = Path(sys.executable).parent, more: str = "", apart: bool = False
) -> Iterator[Served]:
    """Runs ``gradwire serve`` on a free port during the context.

    Args:
        models: The list of models, in YAML.
        environment: Folder of the programs of the Python environment to run it in.
        more: Further keys of the configuration, in YAML.
        apart: True to run it in a network namespace of its own, on a Unix socket, so that Ray listens on no address of the host.
    """
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(prefix="gradwire-bench-") as folder:
        config = Path(folder) / "serve.yaml"
        listen = f"unix:{folder}/socket" if apart else "127.0.0.1:0"
        config.write_text(f"listen: {listen}\n{more}\nmodels:{models}")
        command = [str(environment / "gradwire"), "serve", str(config)]
        if apart:
            command = ["unshare", "-n", "sh", "-c", f"ip link set lo up && exec {shlex.join(command)}"]
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
            yield Served(line.split()[2], process.pid)
        finally:
            process.terminate()
            process.wait(30)


def main(address: str, name: str) -> None:
    """Connects to the server and makes the calls it is asked for until stdin ends."""
    subject = SUBJECTS[name]
    versions = {package: version(package) for package in ("gradwire", "grpcio", "protobuf")}
    with connect(address) as server:
        worker.work({"default": functions(server.estimator(name), subject)}, subject.inputs, versions)


if __name__ == "__main__":
    main(*sys.argv[1:])
