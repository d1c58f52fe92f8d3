"""Detectors: YOLOv3-tiny-like (Redmon and Farhadi 2018), YOLOv8-like (ultralytics), SSDLite (Sandler et al. 2018)."""

import torch
from torch import nn
from torch.nn import functional as F

from zoo_networks.mobile import inverted
from zoo_networks.parts import ZOO, conv_bn

CLASSES = 4


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


class YoloV3Tiny(nn.Module):
    """Leaky ReLU, pools, one of them of stride 1 with padding on one side, nearest upsampling, two raw heads."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 16, 32, 64)
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            layers += [conv_bn(channels, width, act=_leaky), nn.MaxPool2d(2, 2)]
            channels = width
        self.fine = nn.Sequential(*layers[:-1])
        same = [nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(2, 1)]
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2, 2), conv_bn(64, 64, act=_leaky), *same, conv_bn(64, 32, 1, act=_leaky)
        )
        self.head1 = nn.Sequential(conv_bn(32, 64, act=_leaky), nn.Conv2d(64, 3 * (5 + CLASSES), 1))
        self.up = nn.Sequential(conv_bn(32, 16, 1, act=_leaky), nn.Upsample(scale_factor=2, mode="nearest"))
        self.head2 = nn.Sequential(conv_bn(80, 32, act=_leaky), nn.Conv2d(32, 3 * (5 + CLASSES), 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = self.fine(x)
        coarse = self.coarse(fine)
        return self.head1(coarse), self.head2(torch.cat([self.up(coarse), fine], 1))


class C2f(nn.Module):
    """The channels split in two, one half through bottlenecks, all of it concatenated."""

    def __init__(self, c_in: int, c_out: int, count: int, *, add: bool) -> None:
        super().__init__()
        self.add = add
        half = c_out // 2
        self.enter = conv_bn(c_in, c_out, 1, act=nn.SiLU)
        self.leave = conv_bn((2 + count) * half, c_out, 1, act=nn.SiLU)
        bodies = [
            nn.Sequential(conv_bn(half, half, act=nn.SiLU), conv_bn(half, half, act=nn.SiLU)) for _ in range(count)
        ]
        self.bodies = nn.ModuleList(bodies)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for body in self.bodies:
            y = body(parts[-1])
            parts.append(parts[-1] + y if self.add else y)
        return self.leave(torch.cat(parts, 1))


class Sppf(nn.Module):
    """A pool of stride 1 three times over, all steps of it concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.leave = conv_bn(channels, channels // 2, 1, act=nn.SiLU), conv_bn(2 * channels, channels, 1)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class YoloV8(nn.Module):
    """SiLU, C2f, a pyramid up and down, and boxes decoded in the graph: a softmax over distances and anchors."""

    bins = 8

    def __init__(self, size: int, width: int = 8) -> None:
        super().__init__()
        w = width

        def down(c_in: int, c_out: int) -> nn.Module:
            return conv_bn(c_in, c_out, 3, 2, act=nn.SiLU)

        self.stem = nn.Sequential(down(3, w), down(w, 2 * w), C2f(2 * w, 2 * w, 1, add=True))
        self.p3 = nn.Sequential(down(2 * w, 4 * w), C2f(4 * w, 4 * w, 2, add=True))
        self.p4 = nn.Sequential(down(4 * w, 8 * w), C2f(8 * w, 8 * w, 1, add=True), Sppf(8 * w))
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.fine = C2f(12 * w, 4 * w, 1, add=False)
        self.down = down(4 * w, 4 * w)
        self.coarse = C2f(12 * w, 8 * w, 1, add=False)

        def head(channels: int, outputs: int) -> nn.Module:
            return nn.Sequential(conv_bn(channels, 16, act=nn.SiLU), nn.Conv2d(16, outputs, 1))

        self.boxes = nn.ModuleList(head(c, 4 * self.bins) for c in (4 * w, 8 * w))
        self.classes = nn.ModuleList(head(c, CLASSES) for c in (4 * w, 8 * w))
        self.register_buffer("distances", torch.arange(self.bins, dtype=torch.float32).view(1, self.bins, 1, 1))
        anchors, strides = [], []
        for stride in (8, 16):
            along = torch.arange(size // stride) + 0.5
            y, x = torch.meshgrid(along, along, indexing="ij")
            anchors.append(torch.stack([x.flatten(), y.flatten()]))
            strides.append(torch.full((x.numel(),), float(stride)))
        self.register_buffer("anchors", torch.cat(anchors, 1)[None])
        self.register_buffer("strides", torch.cat(strides))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        fine = self.fine(torch.cat([self.up(p4), p3], 1))
        coarse = self.coarse(torch.cat([self.down(fine), p4], 1))
        levels = [
            torch.cat([boxes(level), classes(level)], 1).flatten(2)
            for level, boxes, classes in zip((fine, coarse), self.boxes, self.classes, strict=True)
        ]
        boxes, classes = torch.cat(levels, 2).split((4 * self.bins, CLASSES), 1)
        odds = boxes.view(boxes.shape[0], 4, self.bins, -1).transpose(1, 2).softmax(1)
        left_top, right_bottom = F.conv2d(odds, self.distances).squeeze(1).chunk(2, 1)
        start, end = self.anchors - left_top, self.anchors + right_bottom
        decoded = torch.cat([(start + end) / 2, end - start], 1) * self.strides
        return torch.cat([decoded, classes.sigmoid()], 1)


class SsdLite(nn.Module):
    """Inverted residuals, depthwise heads on three levels, outputs as [N, boxes, values], classes by softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2, act=nn.ReLU6), inverted(16, 48, 24, 3, 2, nn.ReLU6))
        channels = (32, 48, 64)
        steps = zip((24, 32, 48), channels, strict=True)
        self.levels = nn.ModuleList(inverted(a, 4 * a, b, 3, 2, nn.ReLU6) for a, b in steps)

        def head(c: int, values: int) -> nn.Module:
            return nn.Sequential(conv_bn(c, c, groups=c, act=nn.ReLU6), nn.Conv2d(c, 6 * values, 1))

        self.boxes = nn.ModuleList(head(c, 4) for c in channels)
        self.classes = nn.ModuleList(head(c, CLASSES + 1) for c in channels)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        boxes, classes = [], []
        for level, box, score in zip(self.levels, self.boxes, self.classes, strict=True):
            x = level(x)
            boxes.append(box(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4))
            classes.append(score(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, CLASSES + 1))
        return torch.cat(boxes, 1), torch.cat(classes, 1).softmax(-1)


class CenterHeads(nn.Module):
    """A pyramid that adds what it upsamples, and a head of peaks: scores by sigmoid, equal to their neighbourhood's."""

    def __init__(self) -> None:
        super().__init__()
        self.c2 = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2))
        self.c3, self.c4 = conv_bn(24, 32, 3, 2), conv_bn(32, 48, 3, 2)
        self.lateral = nn.ModuleList(nn.Conv2d(c, 24, 1) for c in (24, 32, 48))
        self.smooth = conv_bn(24, 24)
        self.scores, self.sizes = nn.Conv2d(24, CLASSES, 1), nn.Conv2d(24, 2, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        c2 = self.c2(x)
        c3 = self.c3(c2)
        p4 = self.lateral[2](self.c4(c3))
        p3 = self.lateral[1](c3) + F.interpolate(p4, size=c3.shape[2:], mode="nearest")
        p2 = self.lateral[0](c2) + F.interpolate(p3, size=c2.shape[2:], mode="nearest")
        features = self.smooth(p2)
        scores = self.scores(features).sigmoid()
        peaks = F.max_pool2d(scores, 3, 1, 1)
        return scores * (peaks == scores).float(), self.sizes(features).exp()


ZOO.image("yolo_v3_tiny", "Redmon and Farhadi 2018", YoloV3Tiny)
ZOO.image("yolo_v8", "ultralytics' yolov8n", lambda: YoloV8(64))
ZOO.image("ssd_lite", "Sandler et al. 2018", SsdLite)
ZOO.image("center_fpn", "Zhou et al. 2019, Lin et al. 2017", CenterHeads)
