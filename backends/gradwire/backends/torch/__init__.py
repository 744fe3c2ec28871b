"""PyTorch backend: any `torch.nn.Module`."""

from gradwire.backends.torch.model import Config, TorchModel, load

__all__ = ["Config", "TorchModel", "load"]
