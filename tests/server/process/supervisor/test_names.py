"""Names of devices, their discovery, ports, restarts, and the placement of models."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from gradwire.server import serving
from gradwire.server.config.device_names import device_names
from gradwire.server.errors import ConfigError
from gradwire.server.process.supervisor.gpus import DeviceNotFound, find_devices, uuids
from gradwire.server.process.supervisor.placement import place_models
from gradwire.server.process.supervisor.ports import Reserved, metrics_address
from gradwire.server.process.supervisor.restarts import RestartCount, RestartPolicy

A100 = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
OTHER = "GPU-1c2f0a1e-0000-4106-c12f-20bd9faed9f6"
MIG = "MIG-5c6a0a1e-1111-4106-c12f-20bd9faed9f6"

LISTED = f"""GPU 0: NVIDIA A100-SXM4-40GB (UUID: {A100})
GPU 1: NVIDIA A100-SXM4-40GB (UUID: {OTHER})
  MIG 3g.20gb     Device  0: (UUID: {MIG})
"""


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("all", ("all",)),
        ("cpu,cpu", ("cpu", "cpu")),
        (" cuda:0, cuda:3 ", ("cuda:0", "cuda:3")),
        ("cuda", ("cuda",)),
        (f"{A100},{MIG}", (A100, MIG)),
        ("GPU-8932f937", ("GPU-8932f937",)),
        (["cuda:0", A100, "cpu"], ("cuda:0", A100, "cpu")),
    ],
)
def test_devices_are_named_by_place_by_uuid_or_all_at_once(given: Any, names: tuple[str, ...]) -> None:
    assert device_names(given) == names


@pytest.mark.parametrize("given", ["", "gpu0", "cuda:", "cuda:0,all", "cuda:0,", "auto", "GPU-x", [], 2, [0, 1], "cuda:0;rm"])
def test_what_is_no_device_is_refused_with_what_is_one(given: Any) -> None:
    with pytest.raises(ValueError, match="expected all, or a list"):
        device_names(given)


def test_all_are_those_that_the_driver_lists_and_of_one_in_slices_its_slices(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat <<END\n{LISTED}END\n')
    program.chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert find_devices(("all",), path, tmp_path) == [(A100, A100), (MIG, MIG)]
    assert find_devices(("all",), {**path, "CUDA_VISIBLE_DEVICES": f"{OTHER}, 3,-1,0"}, tmp_path) == [
        (OTHER, OTHER),
        ("cuda:1", "3"),
    ]


def test_without_the_drivers_program_its_folder_is_read(tmp_path: Path) -> None:
    for bus, uuid in (("0000:07:00.0", A100), ("0000:0f:00.0", OTHER)):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t NVIDIA A100\nGPU UUID: \t {uuid}\nBus Type: PCIe\n")
    assert find_devices(("all",), {"PATH": str(tmp_path)}, tmp_path) == [(A100, A100), (OTHER, OTHER)]


def test_without_a_gpu_all_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFound, match=r"CUDA_VISIBLE_DEVICES \(not set\), `nvidia-smi -L` \(not installed\), .*none"):
        find_devices(("all",), {"PATH": str(tmp_path)}, tmp_path)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA-SMI has failed because it could not communicate with the driver.; exit 9\n")
    program.chmod(0o755)
    with pytest.raises(DeviceNotFound, match="could not communicate with the driver"):
        find_devices(("all",), {"PATH": f"{tmp_path}:/usr/bin:/bin"}, tmp_path)
    with pytest.raises(DeviceNotFound, match="CUDA_VISIBLE_DEVICES is '', which hides all"):
        find_devices(("all",), {"CUDA_VISIBLE_DEVICES": ""}, tmp_path)
    assert uuids("No devices were found") == []


def test_a_place_is_counted_in_what_is_shown_to_the_server() -> None:
    assert find_devices(("cuda:1", "cuda", "cpu", A100), {}) == [("cuda:1", "1"), ("cuda", "0"), ("cpu", ""), (A100, A100)]
    assert find_devices(("cuda:1",), {"CUDA_VISIBLE_DEVICES": f"3,{A100}"}) == [("cuda:1", A100)]
    with pytest.raises(DeviceNotFound, match="cuda:2 does not exist: CUDA_VISIBLE_DEVICES is '3,4', which shows 2"):
        find_devices(("cuda:2",), {"CUDA_VISIBLE_DEVICES": "3,4"})


@pytest.mark.parametrize(
    ("backend", "said", "on_gpu", "on_cpu"),
    [
        ("torch", None, "cuda:0", "cpu"),
        ("torch", "cuda:3", "cuda:0", "cpu"),
        ("torch", A100, "cuda:0", "cpu"),
        ("torch", "auto", "cuda:0", "cpu"),
        ("torch", "cpu", "cpu", "cpu"),
        ("sklearn", None, None, None),
        ("blackbox", "somewhere", "somewhere", "somewhere"),
        ("no such backend", None, None, None),
    ],
)
def test_models_go_to_the_device_of_their_process_unless_they_say_cpu(
    backend: str, said: str | None, on_gpu: str | None, on_cpu: str | None
) -> None:
    model = {"name": "m", "backend": backend} if said is None else {"name": "m", "backend": backend, "device": said}
    content = {"listen": "127.0.0.1:0", "models": [model, {"name": "n", "same_as": "m"}, "wrong"]}
    for device, expected in ((A100, on_gpu), ("cuda:1", on_gpu), ("cpu", on_cpu)):
        first, *others = place_models(content, device)["models"]
        assert first.get("device") == expected
        assert others == [{"name": "n", "same_as": "m"}, "wrong"]


def test_what_is_no_configuration_is_left_to_whoever_checks_it() -> None:
    assert place_models([1, 2], "cpu") == [1, 2]
    assert place_models({"models": 3}, "cpu") == {"models": 3}


def test_a_reserved_port_is_nobody_elses_and_takes_no_connection() -> None:
    first = Reserved("listen", "127.0.0.1:0")
    host, _, port = first.address.rpartition(":")
    with pytest.raises(ConfigError, match="listen: cannot listen on '127.0.0.1:.*is another server running there?"):
        Reserved("listen", first.address)
    with socket.socket() as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind((host, int(port)))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), 5)
    first.close()
    Reserved("listen", first.address).close()


def test_a_port_that_somebody_listens_on_is_not_shared_whatever_that_one_allows() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="health_listen: cannot listen on"):
            Reserved("health_listen", f"127.0.0.1:{taken.getsockname()[1]}")


@pytest.mark.parametrize("listen", ["unix:/tmp/gradwire.sock", "no.such.host.invalid:50051"])
def test_an_address_that_cannot_be_shared_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="listen: "):
        Reserved("listen", listen)


def test_a_name_of_the_host_stands_for_all_of_its_addresses_at_one_port() -> None:
    reserved = Reserved("listen", "localhost:0")
    assert reserved.address.startswith("localhost:")
    assert len({bound.getsockname()[1] for bound in reserved._sockets}) == 1
    reserved.close()


def test_each_process_is_scraped_at_a_port_of_its_own() -> None:
    assert [metrics_address("127.0.0.1:9464", number) for number in (0, 1, 7)] == [
        "127.0.0.1:9464",
        "127.0.0.1:9465",
        "127.0.0.1:9471",
    ]
    assert metrics_address("127.0.0.1:0", 3) == "127.0.0.1:0"
    assert metrics_address(None, 3) is None
    with pytest.raises(ConfigError, match="65535 is the last"):
        metrics_address("127.0.0.1:65535", 1)


def test_a_process_is_started_again_ever_later_until_it_has_died_quickly_too_often() -> None:
    failures = RestartCount(RestartPolicy(first_delay_s=1, longest_delay_s=3, quick_s=60, most=4))
    assert [failures.delay_s(served_s=0.0) for _ in range(3)] == [1, 2, 3]
    assert failures.delay_s(served_s=100.0) == 0, "a long service resets the count"
    assert [failures.delay_s(served_s=59.0) for _ in range(5)] == [1, 2, 3, 3, None]


def test_only_the_command_starts_processes() -> None:
    model = {"backend": "blackbox", "factory": lambda: lambda x: x[:, :2], "input_shape": [6], "nb_classes": 2}
    with pytest.raises(ConfigError, match="devices: only the command `gradwire serve`"), serving({"m": model}, devices="cpu,cpu"):
        pass
    with pytest.raises(ConfigError, match="devices and engine 'ray' exclude each other"):
        with serving({"m": model}, devices="cpu", engine="ray"):
            pass
    with pytest.raises(ConfigError, match="devices: .*gpu7.* is not a device"), serving({"m": model}, devices=["gpu7"]):
        pass
