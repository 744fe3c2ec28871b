"""The command ``gradwire`` itself, ``gradwire models``, and errors as users see them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points, version

import pytest
from commands import environment, gradwire
from typer.testing import CliRunner

from gradwire.client.cli import GROUP, build
from gradwire.server import serving
from models import cnn


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    model = {"backend": "torch", "factory": cnn, "input_shape": [1, 8, 8], "nb_classes": 5}
    with serving({"digits": model, "digits-labels": {"same_as": "digits", "access": "labels"}}) as address:
        yield address


def test_the_version_is_the_distributions():
    assert gradwire("--version").stdout == f"gradwire {version('gradwire')}\n"


def test_help_names_every_command_and_shows_how_to_begin():
    ended = gradwire("--help")
    assert ended.returncode == 0
    for point in entry_points(group=GROUP):
        assert point.name in ended.stdout
    assert "gradwire serve digits.yaml" in ended.stdout
    assert "from gradwire.client import connect" in ended.stdout


@pytest.mark.parametrize("command", ["serve", "models", "check", "bench", "demo", "token", "tls"])
def test_every_command_explains_itself(command):
    ended = gradwire(command, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "Usage: gradwire" in ended.stdout


def test_an_unknown_command_is_refused():
    ended = gradwire("nonsense")
    assert ended.returncode == 2
    assert "nonsense" in ended.stderr


def test_a_command_whose_extra_is_missing_says_so_and_breaks_no_other():
    points = [
        EntryPoint("broken", "package_that_is_not_there:command [server]", GROUP),
        EntryPoint("models", "gradwire.client.commands.models:models", GROUP),
    ]
    runner = CliRunner()
    shown = runner.invoke(build(points), ["--help"], env={"COLUMNS": "200"}).output
    assert "needs package_that_is_not_there, which is not installed" in shown
    assert "[server]" in shown
    assert "List the models" in shown
    refused = runner.invoke(build(points), ["broken", "some.yaml", "--listen", "x"])
    assert refused.exit_code == 2
    assert "pip install" in refused.output
    assert runner.invoke(build(points), ["models", "--help"]).exit_code == 0


def test_without_typer_it_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; from gradwire.client.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False)
    assert ended.returncode == 1
    assert "pip install 'gradwire[cli]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_client_imports_neither_typer_nor_rich():
    code = "import sys, gradwire.client; sys.exit(bool({'typer', 'rich', 'torch', 'art'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == 0


def test_models_lists_what_each_name_gives(address):
    ended = gradwire("models", address)
    assert ended.returncode == 0, ended.stderr
    [digits, labels] = [line for line in ended.stdout.splitlines() if "digits" in line]
    for cell in ("torch", "1x8x8 float32", "5", "gradients", "class_gradient", "initial", "cpu"):
        assert cell in digits
    assert "labels" in labels
    assert "class_gradient" not in labels


@pytest.mark.parametrize("arguments", [("models",), ("check",)])
def test_no_server_is_one_line_and_3(arguments):
    model = ("digits",) if arguments == ("check",) else ()
    ended = gradwire(*arguments, "127.0.0.1:1", *model)
    assert ended.returncode == 3
    assert "no gradwire server answers at 127.0.0.1:1" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_unknown_model_is_one_line_and_2_with_the_names_there_are(address):
    ended = gradwire("check", address, "nonsense")
    assert ended.returncode == 2
    assert "there are: digits, digits-labels" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_certificate_that_is_not_there_is_one_line_and_2(address):
    ended = gradwire("models", address, "--tls", "nowhere.pem")
    assert ended.returncode == 2
    assert "nowhere.pem: No such file" in ended.stderr
