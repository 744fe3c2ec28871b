"""Workload of clients: three attacks, each with one call under way at a time, as ART makes them."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.scaling.costs import MEASURED, Gpu, gpu


@dataclass(frozen=True)
class Kind:
    """One kind of client.

    Attributes:
        name: Its name in results.
        title: Its title in tables.
        rows: Rows of a call.
        row_nbytes: Bytes of the inputs of one row.
        blocks: Blocks that the server cuts a call into.
        request_nbytes: Bytes of a whole call on the wire.
        answer_nbytes: Bytes of its answer.
        gradients: True if rows come back as gradients, else as ten scores.
        attack_s: Time of the attack's own arithmetic between two calls.
        client_s: Processor time of the client's library for a call.
        loop_s: Processor time of the server's event loop and of other threads that hold the interpreter, for a call.
        batch_s: Processor time of the server's runner for a batch, around the framework.
        batch_block_s: The same, for each further block in a batch.
        gpu: The GPU's times.
    """

    name: str
    title: str
    rows: int
    row_nbytes: int
    blocks: int
    request_nbytes: float
    answer_nbytes: float
    gradients: bool
    attack_s: float
    client_s: float
    loop_s: float
    batch_s: float
    batch_block_s: float
    gpu: Gpu


WAYS = {"grpc": "gRPC", "socket": "Unix socket", "codecs": "gRPC, bfloat16 there, signs back"}
"""Transports of calls. Only ``grpc`` and ``codecs`` leave the host."""

_SHAPES = {"query": (1, 3 * 32 * 32), "pgd128": (128, 3 * 32 * 32), "pgd64": (64, 3 * 224 * 224)}
_TITLES = {
    "query": "one row of 3 x 32 x 32, `predict`, as HopSkipJump asks",
    "pgd128": "128 rows of 3 x 32 x 32, `loss_gradient`, as PGD asks",
    "pgd64": "64 rows of 3 x 224 x 224, `loss_gradient` of a ResNet50-like model, as PGD asks",
}
NAMES = tuple(_SHAPES)

_BLOCK_NBYTES = 32 << 20
"""Larger calls are cut into blocks of about one size, as in the server."""
_HEADERS_NBYTES = 200
"""Bytes of a message beside its tensors; negligible for large calls."""
_SCORES_NBYTES = 40


def kind(name: str, way: str = "grpc") -> Kind:
    """Makes a kind of client.

    Args:
        name: One of `NAMES`.
        way: One of `WAYS`.
    """
    rows, row_size = _SHAPES[name]
    gradients = name != "query"
    there, back = (2.0, 0.25) if way == "codecs" else (4.0, 4.0)
    answer_nbytes = rows * row_size * back if gradients else rows * _SCORES_NBYTES
    of_runner = MEASURED["runner"]["loss_gradient" if gradients else "predict"]
    of_call = MEASURED["calls"][f"{name}, {way}"]
    return Kind(
        name=name,
        title=_TITLES[name],
        rows=rows,
        row_nbytes=4 * row_size,
        blocks=-(-rows * row_size * 4 // _BLOCK_NBYTES),
        request_nbytes=rows * row_size * there + _HEADERS_NBYTES,
        answer_nbytes=answer_nbytes + _HEADERS_NBYTES,
        gradients=gradients,
        attack_s=MEASURED["attacks"][name]["attack_us"] * 1e-6,
        client_s=of_call["client_us"] * 1e-6,
        loop_s=of_call["loop_us"] * 1e-6,
        batch_s=of_runner["batch_us"] * 1e-6,
        batch_block_s=of_runner["block_us"] * 1e-6,
        gpu=gpu(name),
    )
