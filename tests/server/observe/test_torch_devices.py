"""Names of a torch model's device: by index, by UUID, or the one with most free memory. GPU tests need a GPU."""

from __future__ import annotations

import logging
import os
import subprocess

import pytest
import torch

from gradwire.backends.errors import ModelConfigError
from gradwire.backends.torch import device
from gradwire.client import connect
from gradwire.server import serving
from gradwire.server.errors import ConfigError
from models import cnn

CNN = {"backend": "torch", "factory": cnn, "input_shape": [1, 8, 8], "nb_classes": 5}
ABSENT = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"

without_gpu = pytest.mark.skipif("torch.cuda.is_available()", reason="there is a GPU")
with_gpu = pytest.mark.skipif("not torch.cuda.is_available()", reason="there is no GPU")


@pytest.mark.parametrize("name", ["gpu:0", "cuda:", "cuda:x", "GPU-", "GPU-$(reboot)", "Auto", ""])
def test_what_names_no_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        with serving({"digits": {**CNN, "device": name}}):
            pass


@pytest.mark.parametrize("name", ["cuda:99", ABSENT])
def test_a_gpu_that_is_not_there_is_named_with_those_that_are(name: str) -> None:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    with pytest.raises(ModelConfigError, match=rf"{name} is not available; torch sees \d+ GPU\(s\)"):
        device.find_device(name)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == shown


@without_gpu
def test_why_there_is_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ConfigError, match=r"digits: device: .*CUDA_VISIBLE_DEVICES is '3'"):
        with serving({"digits": {**CNN, "device": "cuda"}}):
            pass


@without_gpu
def test_auto_is_the_cpu_where_there_is_no_gpu_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), serving({"digits": {**CNN, "device": "auto"}}) as address, connect(address) as server:
        card = server.estimator("digits").card
    assert (card.device, card.device_uuid) == ("cpu", "")
    assert "no GPU is available" in caplog.text


@without_gpu
def test_auto_finds_nothing_for_a_model_that_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="auto found no GPU, and cuda_graphs needs one"):
        with serving({"digits": {**CNN, "device": "auto", "cuda_graphs": True}}):
            pass


def test_a_cpu_has_no_uuid_and_nothing_to_read() -> None:
    cpu = device.find_device("cpu")
    assert device.device_uuid(cpu) == ""
    assert device.read_device(cpu) is None


@with_gpu
def test_a_gpu_tells_its_uuid_and_its_memory() -> None:
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    with serving({"digits": {**CNN, "device": "auto"}}) as address, connect(address) as server:
        card = server.estimator("digits").card
    assert card.device.startswith("cuda:")
    assert card.device_uuid
    assert card.device_uuid in listed
    assert device.find_device(card.device_uuid[:12]).index == torch.device(card.device).index
    reading = device.read_device(torch.device(card.device))
    assert reading is not None
    assert 0 < reading.memory_nbytes["used"] <= reading.memory_nbytes["total"]
