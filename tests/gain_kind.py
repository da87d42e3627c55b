"""A kind of perturbation that is no part of tl_steer. It multiplies, so zeros are no identity."""

import torch
from torch import nn

import tl_steer as ts


@ts.perturbations.register("test_gain")
class Gain(ts.Perturbation):
    """x -> x (1 + floor) g, every number within `radius` of 1."""

    radius_is_norm = False

    def __init__(self, site, gains, *, floor=0.0, radius=1.0, positions=ts.Positions()):  # noqa: B008
        super().__init__(site, radius=radius, positions=positions)
        self.floor = floor
        self.gains = nn.Parameter(gains.detach().clone())

    @classmethod
    def random(cls, site, n, *, radius, generator, positions, settings):
        gains = 1 + radius * torch.randn(n, site.width, generator=generator)
        return cls(site, gains, radius=radius, positions=positions, **settings)

    def forward(self, activation, rows):
        gain = self.gains.index_select(0, rows.to(self.gains.device))
        return activation * (1 + self.floor) * gain[:, None].to(activation)

    @torch.no_grad()
    def project_(self):
        self.gains.clamp_(1 - self.radius, 1 + self.radius)
