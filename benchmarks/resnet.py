"""ResNet18 with the same weights every time.

He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, CVPR 2016.

Its first layers are those for ImageNet, a convolution of 7 x 7 with stride 2 and a pooling. With rows of 3 x 32 x 32 a loss
gradient of 32 rows then takes tenths of a second on one core, and gradients of all ten classes a second or two.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.model import NB_CLASSES


class Block(nn.Module):
    """Two convolutions of 3 x 3 with a residual connection around them."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.around: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.around = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the block."""
        inner = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        result: torch.Tensor = self.relu(inner + self.around(x))
        return result


def resnet18() -> nn.Sequential:
    """Makes a ResNet18 for 3 x 32 x 32 inputs and 10 classes, in inference mode."""
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            nn.Sequential(Block(64, 64, 1), Block(64, 64, 1)),
            nn.Sequential(Block(64, 128, 2), Block(128, 128, 1)),
            nn.Sequential(Block(128, 256, 2), Block(256, 256, 1)),
            nn.Sequential(Block(256, 512, 2), Block(512, 512, 1)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, NB_CLASSES),
        ).eval()
