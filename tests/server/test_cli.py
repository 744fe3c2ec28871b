"""``gradwire serve`` as a process: it says where it serves, ends well, and explains a wrong file."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from commands import gradwire
from processes import gradwire_serve

from gradwire.client import connect

# A black box, because torch takes seconds to import and what is tested here is the same for every backend.
DIGITS: dict[str, Any] = {
    "name": "digits",
    "backend": "blackbox",
    "factory": "owner_of_digits:make",
    "input_shape": [6],
    "nb_classes": 5,
}
FACTORY = "import numpy as np\n\n\ndef make():\n    return lambda x: x @ np.eye(6, 5)\n"


def config(folder: Path, **changes: Any) -> Path:
    """A file that is right but for the changes, with the owner's module beside it."""
    (folder / "owner_of_digits.py").write_text(FACTORY)
    path = folder / "digits.yaml"
    path.write_text(yaml.safe_dump({"listen": "127.0.0.1:0", "models": [DIGITS], **changes}))
    return path


def model(**changes: Any) -> list[dict[str, Any]]:
    return [{**DIGITS, **changes}]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_serves_and_ends_with_0_on_a_signal(tmp_path, number):
    with gradwire_serve(config(tmp_path)) as server:
        with connect(server.address) as connection:
            assert connection.estimator("digits").predict(np.zeros((2, 6))).shape == (2, 5)
        server.signal(number)
        assert server.process.wait(30) == 0


def test_the_command_line_replaces_keys_of_the_file(tmp_path):
    path = config(tmp_path, listen="127.0.0.1:1")
    with gradwire_serve(path, "--listen", "127.0.0.1:0", "--log-format", "json") as server:
        assert not server.address.endswith(":1")
        server.signal(signal.SIGTERM)
        server.process.wait(30)
    assert '"message": "serving"' in server.log.read_text()


def test_a_second_server_on_the_same_port_is_refused(tmp_path):
    with gradwire_serve(config(tmp_path)) as server:
        ended = gradwire("serve", str(config(tmp_path, listen=server.address)))
        assert ended.returncode == 2
        assert server.address in ended.stderr


WRONG_FILES = {
    "key": ({"listn": "127.0.0.1:0"}, ["listn", "unknown key", "listen"]),
    "nested key": ({"limits": {"max_call": 3}}, ["limits.max_call", "unknown key", "max_calls"]),
    "type": ({"drain_timeout_s": "long"}, ["drain_timeout_s", "number", "'long'"]),
    "address": ({"listen": "anywhere"}, ["listen", "'anywhere'", "127.0.0.1:50051"]),
    "models": ({"models": {}}, ["models", "expected a list of models"]),
    "no models": ({"models": []}, ["models", "at least 1"]),
    "model's key": ({"models": model(wieghts="x")}, ["models[0] (digits)", "wieghts", "weights", "factory"]),
    "model's type": ({"models": model(nb_classes="many")}, ["models[0] (digits)", "nb_classes", "integer", "'many'"]),
    "name": ({"models": model(name="a b")}, ["models[0]", "name", "'a b'"]),
    "access": ({"models": model(access="all")}, ["models[0] (digits)", "access", "'labels'", "'all'"]),
    "access to labels": (
        {"models": model(task="regression", access="labels")},
        ["models[0] (digits)", "access", "a regression has no classes", "'scores'"],
    ),
    "access to labels under another name": (
        {"models": [{**DIGITS, "task": "regression"}, {"name": "b", "same_as": "digits", "access": "labels"}]},
        ["models[1] (b)", "access", "a regression has no classes"],
    ),
    "twice": ({"models": [DIGITS, DIGITS]}, ["models[1]", "name", "'digits' appears twice"]),
    "same_as": ({"models": [DIGITS, {"name": "b", "same_as": "c"}]}, ["models[1] (b)", "same_as", "'c'", "digits"]),
    "backend": ({"models": model(backend="tourch")}, ["models[0] (digits)", "backend", "'tourch'", "torch"]),
    "factory": ({"models": model(factory="no_such_module:make")}, ["digits", "factory", "no_such_module", "PYTHONPATH"]),
    "factory's name": ({"models": model(factory="owner_of_digits:mk")}, ["digits", "factory", "mk", "Expected module:name"]),
    "shape": ({"models": model(input_shape=[7])}, ["digits", "input_shape", "[7]", "one row"]),
    "classes": ({"models": model(nb_classes=7)}, ["digits", "nb_classes", "5", "7"]),
    "weights": (
        {"models": model(backend="torch", weights="no.safetensors", factory="models:cnn", input_shape=[1, 8, 8])},
        ["digits", "weights", "no.safetensors"],
    ),
    "exposed": ({"listen": "0.0.0.0:0"}, ["listen", "not loopback", "127.0.0.1"]),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_a_wrong_file_ends_with_2_and_says_which_key_and_what_is_right(tmp_path, wrong):
    changes, texts = WRONG_FILES[wrong]
    path = config(tmp_path, **changes)
    ended = gradwire("serve", str(path))
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert str(path) in ended.stderr
    for text in texts:
        assert text in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "the file does not exist"), ("models: [", "is not valid YAML"), ("hello", "expected keys such as listen and models")],
)
def test_a_file_that_is_none_ends_with_2(tmp_path, content, text):
    path = tmp_path / "digits.yaml"
    if content is not None:
        path.write_text(content)
    ended = gradwire("serve", str(path))
    assert ended.returncode == 2
    assert f"{path}: {text}" in ended.stderr or text in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_option_ends_with_2_and_says_what_is_right(tmp_path):
    ended = gradwire("serve", str(config(tmp_path)), "--log-format", "xml")
    assert ended.returncode == 2
    assert "'text' or 'json'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_square_brackets_of_an_error_are_shown(tmp_path, monkeypatch):
    # Rich would take them for markup, and "pip install 'gradwire[torch]'" would lose its extra.
    path = config(tmp_path, models=model(name="[red]"))
    assert "'[red]'" in gradwire("serve", str(path)).stderr
