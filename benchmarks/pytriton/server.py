"""The model served by PyTriton: ``python -m benchmarks.pytriton.server HTTP_PORT GRPC_PORT WORKSPACE``."""

from __future__ import annotations

import sys

import numpy as np
import torch
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig
from torch import nn

from benchmarks.model import INPUT_SHAPE, NB_CLASSES, Array, cnn

MOST_ROWS = 128


TOKEN = "benchmark"
"""Callers who share memory show it."""


def main(http_port: int, grpc_port: int, workspace: str) -> None:
    """Serves until it is ended."""
    module = cnn().eval().requires_grad_(False)
    mean_loss = nn.CrossEntropyLoss()

    @batch  # type: ignore[untyped-decorator]  # PyTriton is not in this environment
    def predict(x: Array) -> dict[str, Array]:
        with torch.inference_mode():
            return {"result": module(torch.from_numpy(x)).numpy()}

    @batch  # type: ignore[untyped-decorator]  # PyTriton is not in this environment
    def loss_gradient(x: Array, y: Array) -> dict[str, Array]:
        leaf = torch.from_numpy(x).requires_grad_()
        loss = mean_loss(module(leaf), torch.from_numpy(y[:, 0]))
        return {"result": torch.autograd.grad(loss, leaf)[0].numpy()}

    rows = Tensor(name="x", dtype=np.float32, shape=INPUT_SHAPE)
    labels = Tensor(name="y", dtype=np.int64, shape=(1,))
    outputs = Tensor(name="result", dtype=np.float32, shape=(NB_CLASSES,))
    gradients = Tensor(name="result", dtype=np.float32, shape=INPUT_SHAPE)
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=http_port,
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        allow_metrics=False,
        log_verbose=0,
    )
    settings = ModelConfig(batching=True, max_batch_size=MOST_ROWS)
    with Triton(config=config, workspace=workspace, security_config=TritonSecurityConfig(access_token=TOKEN)) as triton:
        triton.bind("predict", predict, inputs=[rows], outputs=[outputs], config=settings)
        triton.bind("loss_gradient", loss_gradient, inputs=[rows, labels], outputs=[gradients], config=settings)
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
