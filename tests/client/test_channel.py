"""Addresses of one server, of several, of this host or of another."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack, suppress

import numpy as np
import pytest

from gradwire.client import Renewal, Retry, connect
from gradwire.client.errors import InvalidCall
from gradwire.client.transport.channel import local, target
from gradwire.server import serving

ONE = {
    "127.0.0.1:1": True,
    "localhost:1": True,
    "[::1]:1": True,
    "ipv4:127.0.0.1:1": True,
    "unix:/run/gradwire.sock": True,
    "unix:/run/a,b": True,
    "127.0.0.2:1": True,
    "10.0.0.1:1": False,
    "gpu-node:1": False,
    "127.example.com:1": False,
    "dns:///localhost:1": False,
    "dns://127.0.0.1:53/gradwire:1": False,
}
SEVERAL = {
    "127.0.0.1:1,127.0.0.2:2": ("ipv4:127.0.0.1:1,127.0.0.2:2", True),
    "127.0.0.1:1,10.0.0.1:2": ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
    "10.0.0.1:2,127.0.0.1:1": ("ipv4:10.0.0.1:2,127.0.0.1:1", False),
    "[::1]:1,[2001:db8::1]:2": ("ipv6:[::1]:1,[2001:db8::1]:2", False),
    "ipv4:127.0.0.1:1,10.0.0.1:2": ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
}


@pytest.mark.parametrize("address", ONE)
def test_one_address_is_what_it_is(address: str) -> None:
    assert target(address) == address
    assert local(address) == ONE[address]


@pytest.mark.parametrize("address", SEVERAL)
def test_several_addresses_get_the_scheme_of_such_lists(address: str) -> None:
    assert (target(address), local(address)) == SEVERAL[address]


@pytest.mark.parametrize(
    "address", ["a:1,b:2", "127.0.0.1:1,[::1]:2", "127.0.0.1,127.0.0.2:1", "127.0.0.1:1,", "127.0.0.1:1, 127.0.0.1:2"]
)
def test_a_list_of_something_else_is_refused_and_says_what_would_be_right(address: str) -> None:
    with pytest.raises(InvalidCall, match="dns:///NAME:PORT") as caught:
        connect(address)
    assert repr(address) in str(caught.value)


@pytest.mark.parametrize("address", [address for address, (_, here) in SEVERAL.items() if not here] + ["127.example.com:1"])
def test_a_token_does_not_go_in_the_clear_to_a_list_that_another_host_is_in(address: str) -> None:
    with pytest.raises(InvalidCall, match="in the clear"):
        connect(address, token="secret")


def test_servers_of_a_list_take_turns() -> None:
    model = {"backend": "blackbox", "factory": lambda: lambda x: x[:, :2], "input_shape": [3], "nb_classes": 2}
    x = np.ones((1, 3), np.float32)
    with serving({"a": model}) as first, serving({"a": model}) as second:
        with connect(f"{first},{second}", renewal=Renewal(calls=1)) as server:
            remote = server.estimator("a")
            for _ in range(100):  # until both are connected to, there is only one to take
                remote.predict(x)
        with connect(first) as one, connect(second) as other:
            used = [side.estimator("a").usage().forward for side in (one, other)]
    assert sum(used) == 100
    assert min(used) > 20


def test_a_server_that_takes_its_time_to_be_connected_to_is_waited_for() -> None:
    """As one far away, whose handshakes take longer than gRPC's pause between two attempts."""
    model = {"backend": "blackbox", "factory": lambda: lambda x: x[:, :2], "input_shape": [3], "nb_classes": 2}
    with serving({"a": model}) as address, socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as ends:

        def relay(here: socket.socket, there: socket.socket) -> None:
            with suppress(OSError):
                while piece := here.recv(1 << 16):
                    there.sendall(piece)

        def accept() -> None:
            with suppress(OSError):  # the listener is closed
                while True:
                    near = ends.enter_context(listener.accept()[0])
                    time.sleep(0.5)
                    host, _, port = address.rpartition(":")
                    far = ends.enter_context(socket.create_connection((host, int(port))))
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=relay, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        here = f"127.0.0.1:{listener.getsockname()[1]}"
        with connect(here, same_host=False, retry=Retry(attempts=1)) as server:
            assert server.estimator("a").predict(np.ones((1, 3), np.float32)).tolist() == [[1, 1]]
