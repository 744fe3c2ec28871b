"""Operator of a declared application: runs it, and deletes it."""

from __future__ import annotations

import os
import sys

import ray
from ray import serve

from gradwire.server.process.ray_app import application


def main(address: str, config: str) -> None:
    """Prints the front's address, and waits until its input ends."""
    # Ray's own output must not mix with the address on stdout.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ray.init(address, namespace="gradwire", log_to_driver=False)
    serve.start(proxy_location="Disabled")
    handle = serve.run(application({"config": config}), name="declared", route_prefix=None)
    print(handle.address.remote().result(), file=answers, flush=True)
    sys.stdin.read()
    serve.delete("declared")


if __name__ == "__main__":
    main(*sys.argv[1:])
