"""Client process of large calls: ``python -m benchmarks.bulk.client ADDRESS``; see `benchmarks.contenders.worker`."""

from __future__ import annotations

import sys
from functools import partial
from importlib.metadata import version
from unittest.mock import patch

import numpy as np

from benchmarks.bulk.models import ROW_SHAPE
from benchmarks.contenders.contender import Function
from benchmarks.contenders.worker import work
from benchmarks.model import Array, Inputs
from gradwire.client import RemoteEstimator, connect
from gradwire.client.transport import same_host

WAYS = {"grpc": "gRPC, chunks", "socket": "Unix socket", "shared": "Unix socket and shared memory"}


def batch(rows: int, batch_size: int = 128) -> Inputs:
    """Makes rows; the same every time."""
    x = np.random.default_rng(rows).random((rows, *ROW_SHAPE), np.float32)
    return Inputs(x=x, y=np.zeros(rows, np.int64), one_hot=x[:, :0], cotangent=x[:, :0], batch_size=batch_size)


def main(address: str) -> None:
    """Connects in each way and makes the calls it is asked for until stdin ends."""
    with connect(address, same_host=False) as far, connect(address) as near, connect(address) as sharing:

        def refused() -> int:
            raise OSError("no memory is shared, as between containers")

        unshared = near.estimator("identity")

        def predict_unshared(inputs: Inputs) -> Array:
            with patch.object(same_host, "create", refused):
                return unshared.predict(inputs.x)

        ways: dict[str, dict[str, Function]] = {
            "grpc": {"predict": partial(_predict, far.estimator("identity"))},
            "socket": {"predict": predict_unshared},
            "shared": {"predict": partial(_predict, sharing.estimator("identity"))},
        }
        work(ways, batch, {package: version(package) for package in ("gradwire", "grpcio", "protobuf")})


def _predict(estimator: RemoteEstimator, inputs: Inputs) -> Array:
    return estimator.predict(inputs.x)


if __name__ == "__main__":
    main(*sys.argv[1:])
