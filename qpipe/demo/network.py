"""The demo's float network: a ResNet of nine convolutions for 8x8 digits, and its training.

It has what real residual networks have, in small: BatchNormalization after every convolution, an identity skip, two
skips through a strided 1x1 convolution, global average pooling and a linear classifier.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpipe.data import Augment, Preprocess, open_data
from qpipe.progress import track

INPUT_SHAPE: Final = (1, 8, 8)
CLASSES: Final = 10
# Mean and standard deviation of the training pixels / 255, rounded.
PREPROCESS: Final = Preprocess(mean=(0.3,), std=(0.38,), color="GRAY")
# Shifts of one pixel keep a digit what it is; a mirror does not.
AUGMENT: Final = Augment(pad=1, flip=False)
BATCH_SIZE: Final = 64
LEARNING_RATE: Final = 0.1
MOMENTUM: Final = 0.9
WEIGHT_DECAY: Final = 5e-4


class Block(nn.Module):
    """Two 3x3 convolutions and a skip: the identity, or a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.skip = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels_in, H, W] -> [N, channels, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.skip(x))


class DigitsResNet(nn.Module):
    """[N, 1, 8, 8] -> logits [N, 10]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2))
        self.linear = nn.Linear(4 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, 8, 8] -> logits [N, 10]."""
        x = F.relu(self.bn(self.conv(x)))
        x = self.blocks(x)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: a network this small gains nothing from more, and on a busy machine loses."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@one_thread()
def train_network(*, epochs: int, seed: int) -> DigitsResNet:
    """A trained network, in evaluation mode; one seed gives one result on one machine.

    SGD with momentum; the learning rate falls along half a cosine.
    """
    source = open_data("digits", "train", PREPROCESS)
    # The seed of whoever calls is left as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitsResNet().train()
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in track(range(epochs), "training the float network"):
        for batch in source.batches(BATCH_SIZE, shuffle=True, seed=seed, epoch=epoch, augment=AUGMENT, drop_last=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(torch.from_numpy(batch.inputs)), torch.from_numpy(batch.labels))
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
        schedule.step()
    return network.eval()
