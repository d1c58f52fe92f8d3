"""ResNet-18, 34, 50, 152 (He et al. 2016), ResNeXt (Xie et al. 2017), RegNet X and Y (Radosavovic et al. 2020)."""

from torch import nn

from zoo_networks.parts import ZOO, Residual, SqueezeExcite, conv_bn, head


def _skip(c_in: int, c_out: int, stride: int) -> nn.Module | None:
    return None if stride == 1 and c_in == c_out else conv_bn(c_in, c_out, 1, stride, act=None)


def basic(c_in: int, c_out: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions."""
    body = nn.Sequential(conv_bn(c_in, c_out, 3, stride), conv_bn(c_out, c_out, act=None))
    return Residual(body, _skip(c_in, c_out, stride), nn.ReLU)


def bottleneck(
    c_in: int, c_out: int, stride: int, *, narrow: int = 4, width: int | None = None, excite: bool = False
) -> nn.Module:
    """1x1, 3x3, 1x1; of c_out / narrow channels inside, in groups of `width`."""
    inside = c_out // narrow
    groups = 1 if width is None else inside // width
    excites = [SqueezeExcite(inside, max(4, c_in // 4))] if excite else []
    body = nn.Sequential(
        conv_bn(c_in, inside, 1),
        conv_bn(inside, inside, 3, stride, groups=groups),
        *excites,
        conv_bn(inside, c_out, 1, act=None),
    )
    return Residual(body, _skip(c_in, c_out, stride), nn.ReLU)


def resnet(
    blocks: tuple[int, ...], width: int, *, bottlenecks: bool = False, groups_of: int | None = None
) -> nn.Module:
    """7x7 stem and four stages; `width` channels in the first."""
    layers: list[nn.Module] = [conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage, count in enumerate(blocks):
        c_out = width * 2**stage * (4 if bottlenecks else 1)
        for index in range(count):
            stride = 2 if stage and not index else 1
            if not bottlenecks:
                layers.append(basic(channels, c_out, stride))
            else:
                narrow = 2 if groups_of else 4
                layers.append(bottleneck(channels, c_out, stride, narrow=narrow, width=groups_of))
            channels = c_out
    return nn.Sequential(*layers, head(channels))


def regnet(depths: tuple[int, ...], widths: tuple[int, ...], group: int, *, excite: bool) -> nn.Module:
    """3x3 stem, four stages of X blocks (Y with squeeze and excitation), each of which begins with stride 2."""
    layers: list[nn.Module] = [conv_bn(3, 16, 3, 2)]
    channels = 16
    for depth, width in zip(depths, widths, strict=True):
        for index in range(depth):
            layers.append(
                bottleneck(channels, width, 1 if index else 2, narrow=1, width=min(group, width), excite=excite)
            )
            channels = width
    return nn.Sequential(*layers, head(channels))


RESNET = "He et al. 2016"
ZOO.image("resnet18", RESNET, lambda: resnet((2, 2, 2, 2), 16))
ZOO.image("resnet34", RESNET, lambda: resnet((3, 4, 6, 3), 16))
ZOO.image("resnet50", RESNET, lambda: resnet((3, 4, 6, 3), 8, bottlenecks=True))
ZOO.image("resnet152", RESNET, lambda: resnet((3, 8, 36, 3), 8, bottlenecks=True))
ZOO.image("resnext50", "Xie et al. 2017", lambda: resnet((3, 4, 6, 3), 16, bottlenecks=True, groups_of=8))
REGNET = "Radosavovic et al. 2020"
ZOO.image("regnet_x", REGNET, lambda: regnet((1, 1, 4, 7), (24, 40, 80, 160), 8, excite=False))
ZOO.image("regnet_y", REGNET, lambda: regnet((1, 1, 4, 7), (24, 40, 80, 160), 8, excite=True))
