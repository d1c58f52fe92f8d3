"""Networks that give images: U-Net, FCN, BiSeNet, DeepLab, FSRCNN, ESPCN, EDSR, IMDN, DnCNN."""

import torch
from torch import nn
from torch.nn import functional as F

from zoo_networks.parts import ZOO, Residual, SqueezeExcite, conv_bn

CLASSES = 5


def _twice(c_in: int, c_out: int) -> nn.Module:
    return nn.Sequential(conv_bn(c_in, c_out), conv_bn(c_out, c_out))


class UNet(nn.Module):
    """Three levels (Ronneberger et al. 2015).

    up: "transposed" convolutions; "bilinear", with aligned corners and padded to the skip's size as milesial's
    Pytorch-UNet does; "nearest".
    """

    def __init__(self, up: str, width: int = 8) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.enter = nn.ModuleList(_twice(a, b) for a, b in zip([3, *widths[:-1]], widths, strict=True))
        self.mode = up
        narrower = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        if up == "transposed":
            self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in narrower)
        elif up == "bilinear":
            bigger = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.up = nn.ModuleList(nn.Sequential(bigger, nn.Conv2d(a, b, 1)) for a, b in narrower)
        else:
            self.up = nn.ModuleList(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 1)) for a, b in narrower)
        self.leave = nn.ModuleList(_twice(2 * b, b) for _, b in narrower)
        self.last = nn.Conv2d(width, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, layer in enumerate(self.enter):
            x = layer(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for up, layer, skip in zip(self.up, self.leave, skips[-2::-1], strict=True):
            x = up(x)
            if self.mode == "bilinear":
                dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
                x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
            x = layer(torch.cat([skip, x], 1))
        return self.last(x)


class Fcn(nn.Module):
    """A score map made 8 times as large by bilinear interpolation, and the class of each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 32, 3, 2), conv_bn(32, 48, 3, 2))
        self.score = nn.Sequential(conv_bn(48, 24), nn.Dropout(0.1), nn.Conv2d(24, CLASSES, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.score(self.features(x))
        return F.interpolate(scores, size=x.shape[-2:], mode="bilinear", align_corners=False).argmax(1)


class BiSeNet(nn.Module):
    """A detailed and a deep path, attention by global means, and their fusion (Yu et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.detail = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2), conv_bn(24, 32, 3, 2))
        self.c8 = nn.Sequential(conv_bn(3, 8, 3, 2), conv_bn(8, 16, 3, 2), conv_bn(16, 24, 3, 2))
        self.c16, self.c32 = conv_bn(24, 32, 3, 2), conv_bn(32, 48, 3, 2)
        self.refine = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Sigmoid())
            for _ in range(2)
        )
        self.narrow = nn.ModuleList(conv_bn(c, 24) for c in (32, 48))
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(48, 24, 1))
        self.fuse, self.excite = conv_bn(56, 32, 1), SqueezeExcite(32, 8)
        self.last = nn.Sequential(conv_bn(32, 32), nn.Conv2d(32, CLASSES, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        detail, c16 = self.detail(x), self.c16(self.c8(x))
        c32 = self.c32(c16)
        deep = self.narrow[1](c32)
        deep = deep * self.refine[1](deep) + self.mean(c32)
        deep = F.interpolate(deep, scale_factor=2, mode="nearest")
        middle = self.narrow[0](c16)
        middle = F.interpolate(middle * self.refine[0](middle) + deep, scale_factor=2, mode="nearest")
        fused = self.fuse(torch.cat([detail, middle], 1))
        fused = fused + self.excite(fused)
        return F.interpolate(self.last(fused), scale_factor=8, mode="bilinear", align_corners=True)


class DeepLab(nn.Module):
    """Dilated convolutions side by side with the image's mean, and a decoder (Chen et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2))
        self.high = nn.Sequential(conv_bn(24, 32, 3, 2), conv_bn(32, 48, dilation=2))
        self.spread = nn.ModuleList([conv_bn(48, 24, 1), *(conv_bn(48, 24, dilation=d) for d in (2, 4))])
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(48, 24, 1))
        self.project, self.thin = conv_bn(96, 32, 1), conv_bn(24, 8, 1)
        self.last = nn.Sequential(conv_bn(40, 32), nn.Conv2d(32, CLASSES, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.low(x)
        high = self.high(low)
        mean = F.interpolate(self.mean(high), size=high.shape[2:], mode="bilinear", align_corners=False)
        high = self.project(torch.cat([*(layer(high) for layer in self.spread), mean], 1))
        high = F.interpolate(high, size=low.shape[2:], mode="bilinear", align_corners=False)
        scores = self.last(torch.cat([high, self.thin(low)], 1))
        return F.interpolate(scores, size=x.shape[2:], mode="bilinear", align_corners=False)


def fsrcnn(scale: int = 2) -> nn.Module:
    """PReLU throughout; the last layer is a transposed convolution of 9x9 (Dong et al. 2016)."""
    layers: list[nn.Module] = [nn.Conv2d(1, 56, 5, padding=2), nn.PReLU(56), nn.Conv2d(56, 12, 1), nn.PReLU(12)]
    for _ in range(4):
        layers += [nn.Conv2d(12, 12, 3, padding=1), nn.PReLU(12)]
    layers += [nn.Conv2d(12, 56, 1), nn.PReLU(56)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(56, 1, 9, scale, 4, output_padding=scale - 1))


def espcn(scale: int = 3) -> nn.Module:
    """Tanh, and channels turned into pixels (Shi et al. 2016)."""
    layers = [nn.Conv2d(1, 32, 5, padding=2), nn.Tanh(), nn.Conv2d(32, 16, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(16, scale**2, 3, padding=1), nn.PixelShuffle(scale), nn.Sigmoid())


class Scaled(nn.Module):
    """A body times a constant beside its input: residual scaling (Lim et al. 2017)."""

    def __init__(self, body: nn.Module, factor: float) -> None:
        super().__init__()
        self.body, self.factor = body, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x).mul(self.factor)


class Edsr(nn.Module):
    """Means taken off and put back by the network itself, residual blocks without normalization, two shuffles."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.40]).view(1, 3, 1, 1))
        self.first = nn.Conv2d(3, channels, 3, padding=1)

        def body() -> nn.Module:
            convs = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
            return Scaled(nn.Sequential(convs[0], nn.ReLU(), convs[1]), 0.1)

        self.body = Residual(nn.Sequential(*(body() for _ in range(4)), nn.Conv2d(channels, channels, 3, padding=1)))
        self.up = nn.Sequential(nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.PixelShuffle(2))
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.up(self.body(self.first(x - self.mean)))) + self.mean


class Distill(nn.Module):
    """Channels split off after each convolution, contrast attention, a skip (Hui et al. 2019)."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.kept = kept = channels // 4
        rest = channels - kept
        self.convs = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1)])
        self.convs.extend(nn.Conv2d(rest, channels, 3, padding=1) for _ in range(2))
        self.final = nn.Conv2d(rest, kept, 3, padding=1)
        self.weigh = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.ReLU(), nn.Conv2d(8, channels, 1), nn.Sigmoid())
        self.last = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, rest = [], x
        for conv in self.convs:
            y = F.leaky_relu(conv(rest), 0.05)
            part, rest = y.split((self.kept, y.shape[1] - self.kept), 1)
            kept.append(part)
        y = torch.cat([*kept, self.final(rest)], 1)
        mean = y.mean((2, 3), keepdim=True)
        contrast = ((y - mean) ** 2).mean((2, 3), keepdim=True).sqrt() + mean
        return self.last(y * self.weigh(contrast)) + x


def imdn() -> nn.Module:
    """Two distillation blocks and a shuffle."""
    body = Residual(nn.Sequential(Distill(), Distill(), nn.Conv2d(32, 32, 3, padding=1)))
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), body, nn.Conv2d(32, 12, 3, padding=1), nn.PixelShuffle(2))


class DnCnn(nn.Module):
    """The noise, taken off the image that is the network's input (Zhang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU()), *(conv_bn(24, 24) for _ in range(5))]
        self.noise = nn.Sequential(*layers, nn.Conv2d(24, 1, 3, padding=1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.noise(x)


RONNEBERGER = "Ronneberger et al. 2015"
ZOO.image("unet_transposed", RONNEBERGER, lambda: UNet("transposed"))
ZOO.image("unet_bilinear", "milesial's Pytorch-UNet", lambda: UNet("bilinear"))
ZOO.image("unet_nearest", RONNEBERGER, lambda: UNet("nearest"))
ZOO.image("fcn", "Long et al. 2015", Fcn)
ZOO.image("bisenet", "Yu et al. 2018", BiSeNet)
ZOO.image("deeplab", "Chen et al. 2018", DeepLab)
ZOO.enter("fsrcnn", "Dong et al. 2016", fsrcnn, (1, 24, 24), kinds=("pixels",))
ZOO.enter("espcn", "Shi et al. 2016", espcn, (1, 24, 24), kinds=("pixels",))
ZOO.enter("edsr", "Lim et al. 2017", Edsr, (3, 24, 24), kinds=("pixels",))
ZOO.enter("imdn", "Hui et al. 2019", imdn, (3, 24, 24), kinds=("pixels",))
ZOO.enter("dncnn", "Zhang et al. 2017", DnCnn, (1, 32, 32), kinds=("pixels",))
