"""Networks to compare with."""

import torch
from torch import nn
from torch.nn import functional

GRID = 55  # GammaLearn interpolates LSTCam to 55 x 55 squares


class _Block(nn.Module):
    """Residual block with full pre-activation of ordinary 3 x 3 convolutions."""

    def __init__(self, channels, width, stride, activate_input):
        super().__init__()
        self.activation1 = (
            nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
            if activate_input
            else nn.Identity()
        )
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1)
        self.activation2 = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, width, 3, stride, padding=1),
            )

    def forward(self, maps):
        branch = self.activation2(self.conv1(self.activation1(maps)))
        return self.conv2(branch) + self.shortcut(maps)


class _DualAttention(nn.Module):
    def __init__(self, channels, ratio):
        super().__init__()
        inner = max(channels // ratio, 1)
        self.gate = nn.Sequential(
            nn.Linear(channels, inner),
            nn.ReLU(),
            nn.Linear(inner, channels),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
            nn.Conv2d(channels // 2, 1, 1),
            nn.Sigmoid(),
        )

    def forward(self, maps):
        gate = self.gate(maps.mean(dim=(2, 3)))
        return maps * gate[..., None, None] * (1 + self.spatial(maps))


class InterpolatedNetwork(nn.Module):
    """γ-PhysNet as GammaLearn runs it by default, on images of 55 x 55 squares.

    The same depth, widths, attention and heads as `GammaPhysNet` of the same options,
    in ordinary PyTorch layers. The interpolation of the images is not part of it.
    """

    def __init__(self, options):
        super().__init__()
        width, size = options.channels[0], GRID
        layers = [nn.Conv2d(2, width, 3, padding=1), nn.ReLU()]
        for stage, out_width in enumerate(options.channels):
            stride = 2 if stage else 1
            size = -(-size // stride)
            layers.append(_Block(width, out_width, stride, activate_input=stage > 0))
            width = out_width
            for _ in range(options.blocks - 1):
                layers.append(_Block(width, width, 1, activate_input=True))
            layers.append(_DualAttention(width, options.reduction_ratio))
        self.backbone = nn.Sequential(*layers, nn.ReLU())
        flat = width * size**2
        self.local = nn.Sequential(nn.Linear(flat, options.head_width), nn.ReLU())
        self.overall = nn.Sequential(nn.Linear(width, options.head_width), nn.ReLU())
        self.energy = nn.Linear(options.head_width, 1)
        self.direction = nn.Linear(options.head_width, 2)
        self.impact = nn.Linear(options.head_width, 2)
        self.particle_type = nn.Linear(flat, 2)

    @staticmethod
    def images(number, device="cpu"):
        """Images of the right shape, of noise."""
        return torch.randn(number, 2, GRID, GRID, device=device)

    def forward(self, images):
        maps = self.backbone(images)
        flat = maps.flatten(1)
        local = self.local(flat)
        return {
            "energy": self.energy(
                self.overall(functional.adaptive_avg_pool2d(maps, 1).flatten(1))
            ),
            "direction": self.direction(local),
            "impact": self.impact(local),
            "particle_type": self.particle_type(flat),
        }
