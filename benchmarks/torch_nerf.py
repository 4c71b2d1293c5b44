"""NeRF in plain PyTorch, for comparison: the same network, sampling, compositing, loss and Adam, with the same weights."""

from collections.abc import Callable

import torch
from torch import nn


class Field(nn.Module):
    def __init__(self, k: dict):
        super().__init__()
        seen, directions = 3 + 6 * k['num_frequencies'], 3 + 6 * k['num_direction_frequencies']
        self.k, sizes = k, [seen]
        for i in range(k['depth'] - 1):
            sizes.append(k['width'] + seen * (i in k['skips']))
        self.pts_linears = nn.ModuleList(nn.Linear(size, k['width']) for size in sizes)
        self.alpha_linear = nn.Linear(k['width'], 1)
        self.feature_linear = nn.Linear(k['width'], k['bottleneck_size'])
        self.views_linears = nn.ModuleList([nn.Linear(k['bottleneck_size'] + directions, k['width'] // 2)])
        self.rgb_linear = nn.Linear(k['width'] // 2, 3)

    def forward(self, points, directions):
        seen = encode(points, self.k['num_frequencies'])
        net = seen
        for i, layer in enumerate(self.pts_linears):
            net = torch.relu(layer(net))
            if i in self.k['skips']:
                net = torch.cat([seen, net], -1)
        towards = encode(directions, self.k['num_direction_frequencies'])[:, None].expand(-1, points.shape[1], -1)
        hidden = torch.relu(self.views_linears[0](torch.cat([self.feature_linear(net), towards], -1)))
        return torch.cat([self.rgb_linear(hidden), self.alpha_linear(net)], -1)


def encode(x, num_frequencies):
    waves = [wave(2.0**i * x) for i in range(num_frequencies) for wave in (torch.sin, torch.cos)]
    return torch.cat([x, *waves], -1)


def composite(raw, distances, directions):
    lengths = torch.cat([distances[:, 1:] - distances[:, :-1], torch.full_like(distances[:, :1], 1e10)], -1)
    lengths = lengths * directions.norm(dim=-1, keepdim=True)
    alpha = 1 - torch.exp(-nn.functional.softplus(raw[..., 3] - 1) * lengths)
    passed = torch.cumprod(1 - alpha + 1e-10, -1)
    weights = alpha * torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], -1)
    return (weights[..., None] * torch.sigmoid(raw[..., :3])).sum(1) + 1 - weights.sum(-1, keepdim=True), weights


def sample_again(distances, weights, places):
    middles = (distances[:, 1:] + distances[:, :-1]) / 2
    pdf = weights[:, 1:-1] + 1e-5
    cdf = torch.cumsum(pdf / pdf.sum(-1, keepdim=True), -1)
    cdf = torch.cat([torch.zeros_like(cdf[:, :1]), cdf], -1)
    after = torch.searchsorted(cdf, places.contiguous(), right=True)
    below, above = (after - 1).clamp(min=0), after.clamp(max=cdf.shape[-1] - 1)
    gap = cdf.gather(1, above) - cdf.gather(1, below)
    share = (places - cdf.gather(1, below)) / torch.where(gap < 1e-5, torch.ones_like(gap), gap)
    found = middles.gather(1, below) + share * (middles.gather(1, above) - middles.gather(1, below))
    return torch.sort(torch.cat([distances, found], -1), -1)[0].detach()


def load_fields(k: dict, state: dict) -> dict[str, Field]:
    """The networks with the weights {'coarse.pts_linears.0.weight': array, ...}."""
    fields = {name: Field(k) for name in ('coarse', 'fine')}
    for name, field in fields.items():
        weights = {key.removeprefix(f'{name}.'): torch.from_numpy(value.copy()) for key, value in state.items()
                   if key.startswith(f'{name}.')}  # fmt: skip
        field.load_state_dict(weights)
    return fields


def render(fields: dict[str, Field], k: dict, rays, jitter, places):
    """Colours [R, 3] of both networks. rays: tensors as of `volume_rendering.Rays`."""
    origins, directions, view, near, far = rays
    share = torch.linspace(0, 1, k['num_samples'])
    distances = near[:, None] * (1 - share) + far[:, None] * share
    if jitter is not None:
        middles = (distances[:, 1:] + distances[:, :-1]) / 2
        lower, upper = torch.cat([distances[:, :1], middles], -1), torch.cat([middles, distances[:, -1:]], -1)
        distances = lower + (upper - lower) * jitter

    def see(name, distances):
        points = origins[:, None] + distances[..., None] * directions[:, None]
        return composite(fields[name](points, view), distances, directions)

    coarse, weights = see('coarse', distances)
    fine, _ = see('fine', sample_again(distances, weights, places))
    return coarse, fine


def make_step(fields: dict[str, Field], k: dict, rays, rgb) -> Callable[[], float]:
    """step() -> loss, with random numbers of its own."""
    optimizer = torch.optim.Adam([weight for field in fields.values() for weight in field.parameters()], 5e-4)

    def step():
        jitter, places = torch.rand(len(rgb), k['num_samples']), torch.rand(len(rgb), k['num_fine_samples'])
        loss = sum(torch.mean((seen - rgb) ** 2) for seen in render(fields, k, rays, jitter, places))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
