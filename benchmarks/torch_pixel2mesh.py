"""Pixel2Mesh (configs/pixel2mesh.py) and its training step in plain PyTorch: the yardstick of `onet_jax/models/pixel2mesh.py`.

Sub-modules carry the names of the official checkpoints. A graph convolution multiplies with a sparse matrix: the dense one of
the official code is as slow. All is float32. B batch, V vertices, F features.
"""

from collections.abc import Callable

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional

from onet_jax.models.pixel2mesh import FIRST_LAPLACE, TO_SAMPLES, WEIGHTS
from onet_jax.networks.encoders.image import PYRAMID
from onet_jax.networks.graph import NUM_HIDDEN, UNIT, Level, make_ellipsoid


def make_matrix(level: Level, device: str) -> torch.Tensor:
    """The scaled Laplacian of a level [V, V]."""
    matrix = torch.zeros(level.num_vertices, level.num_vertices, device=device)
    for numbers, values in zip(level.neighbours, level.support, strict=True):
        rows = torch.arange(level.num_vertices, device=device)
        matrix.index_put_(
            (rows, torch.as_tensor(numbers, device=device)), torch.as_tensor(values, device=device).float(), True
        )
    matrix.fill_diagonal_(level.diagonal)
    return matrix.to_sparse_csr()


class GraphConvolution(nn.Module):
    def __init__(self, fan_in: int, features: int):
        super().__init__()
        self.lin, self.lin2 = nn.Linear(fan_in, features), nn.Linear(fan_in, features, bias=False)

    def forward(self, x, matrix):
        """x [B, V, F] -> [B, V, G]."""
        others = self.lin2(x)
        wide = others.transpose(0, 1).reshape(others.shape[1], -1)
        return self.lin(x) + (matrix @ wide).reshape(others.shape[1], len(x), -1).transpose(0, 1)


class Twin(nn.Module):
    """The network of `config.model`."""

    def __init__(self, model: ConfigDict, device: str):
        super().__init__()
        width, hidden, fan_in = model.encoder_hidden_size, model.decoder_hidden_size, 3
        self.encoder, self.decoder = nn.Module(), nn.Module()
        for block, layers in enumerate(PYRAMID, start=1):
            modules = []
            for factor, size, stride in layers:
                modules += [nn.Conv2d(fan_in, factor * width, size, stride=stride, padding=size // 2), nn.ReLU()]
                fan_in = factor * width
            self.encoder.add_module(f'block_{block}', nn.Sequential(*modules))
        features = 3 + (4 + 8 + 16 + 32) * width
        for block, num_hidden in enumerate(NUM_HIDDEN):
            first = GraphConvolution(features + (hidden if block else 0), hidden)
            others = [nn.Sequential(GraphConvolution(hidden, hidden), nn.ReLU()) for _ in range(num_hidden)]
            self.decoder.add_module(f'gc{3 * block + 1}', nn.Sequential(first, nn.ReLU()))
            self.decoder.add_module(f'gc{3 * block + 2}', nn.Sequential(*others))
            self.decoder.add_module(f'gc{3 * block + 3}', GraphConvolution(hidden, 3))
        template = make_ellipsoid()
        self.matrices = [make_matrix(level, device) for level in template.levels]
        self.edges = [torch.as_tensor(level.edges, device=device).T for level in template.levels]
        self.start = torch.as_tensor(template.vertices, device=device)

    def forward(self, images, camera_mat):
        """images [B, H, H, 3], camera_mat [B, 3, 3] -> vertices of the three levels after and before each block."""
        maps, net = [], images.permute(0, 3, 1, 2)
        for block in range(1, 5):
            net = getattr(self.encoder, f'block_{block}')(net)
            maps.append(net)
        points, hidden, after, before = self.start.expand(len(images), -1, -1), None, [], []
        for block, matrix in enumerate(self.matrices):
            image = points @ camera_mat.transpose(1, 2)
            grid = (image[..., :2] / image[..., 2:] * (2 / 137) - 1)[:, :, None]
            pooled = [functional.grid_sample(m, grid, align_corners=True)[..., 0].transpose(1, 2) for m in maps]
            x = torch.cat([points, *pooled] + ([] if hidden is None else [hidden]), dim=2)
            if block:
                x, points = (torch.cat([y, y[:, self.edges[block - 1]].mean(dim=1)], dim=1) for y in (x, points))
            before.append(points)
            first, convs, last = (getattr(self.decoder, f'gc{3 * block + i}') for i in (1, 2, 3))
            net = functional.relu(first[0](x, matrix))
            entered = net
            for i, conv in enumerate(convs):
                value = functional.relu(conv[0](net, matrix))
                entered, net = net, (value + entered) / 2 if i % 2 else value
            hidden, points = net, last(net, matrix)
            after.append(points)
        return after, before


def make_loss(twin: Twin) -> Callable:
    levels = make_ellipsoid().levels
    device = twin.start.device
    degrees = [torch.as_tensor(level.adjacency.sum(axis=0), device=device).float()[:, None] for level in levels]

    def relative(points, block):
        first, second = twin.edges[block]
        total = torch.zeros_like(points).index_add(1, first, points[:, second]).index_add(1, second, points[:, first])
        return points - total / degrees[block]

    def loss(after, before, surface, normals):
        total = 0.0
        for block, (new, old) in enumerate(zip(after, before, strict=True)):
            with torch.no_grad():
                distances = torch.cdist(new, surface)
                nearest, nearest_vertex = distances.argmin(dim=2), distances.argmin(dim=1)
            batch = torch.arange(len(new), device=device)[:, None]
            to_samples = (new - surface[batch, nearest]).square().sum(dim=2).mean()
            to_vertices = (surface - new[batch, nearest_vertex]).square().sum(dim=2).mean()
            first, second = twin.edges[block]
            edges, entries = new[:, first] - new[:, second], levels[block].num_entries * len(new)
            at = functional.normalize(normals[batch, nearest], dim=2)
            directions = functional.normalize(edges, dim=2)
            cosines = sum((directions * at[:, end]).sum(dim=2).abs().sum() for end in (first, second))
            change = (relative(old, block) - relative(new, block)).square().sum(dim=2).mean()
            squares = WEIGHTS['chamfer'] * (to_vertices + TO_SAMPLES * to_samples)
            squares = squares + WEIGHTS['edge'] * 2 * edges.square().sum() / entries
            squares = squares + WEIGHTS['laplace'] * (1 if block else FIRST_LAPLACE) * change
            if block:
                squares = squares + WEIGHTS['move'] * (old - new).square().sum(dim=2).mean()
            total = total + UNIT**2 * squares + WEIGHTS['normal'] * cosines / entries
        return total

    return loss


def make_step(config: ConfigDict, state: dict, batch: dict, device: str, compiled: bool) -> Callable[[], float]:
    """step() -> loss: forward pass, backward pass and Adam on a batch as of `Method`; state: official weights as arrays."""
    twin = Twin(config.model, device).to(device)
    twin.load_state_dict({name: torch.as_tensor(np.array(array)) for name, array in state.items()})
    arrays = {**batch['inputs'], **batch['targets']}
    arrays = {name: torch.as_tensor(np.array(array), device=device) for name, array in arrays.items()}
    world_mat = arrays['world_mat']
    normals = arrays['normals'] @ world_mat[:, :, :3].transpose(1, 2)
    surface = arrays['surface'] @ world_mat[:, :, :3].transpose(1, 2) + world_mat[:, None, :, 3]
    network, loss_of = torch.compile(twin) if compiled else twin, make_loss(twin)
    optimizer = torch.optim.Adam(twin.parameters(), lr=config.optim.learning_rate)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(*network(arrays['image'], arrays['camera_mat']), surface, normals)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
