"""The network of configs/atlasnet.py and its training step in plain PyTorch: the yardstick of ours.

Sub-modules carry the names of the official checkpoints. B batch, N points, C condition; channels come second, as PyTorch likes
them.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional

from benchmarks.torch_twin import ResNet18


class PatchMap(nn.Module):
    def __init__(self, dimension: int, cond_size: int, features: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(dimension, cond_size, 1), nn.Conv1d(cond_size, features, 1)
        self.conv_list = nn.ModuleList(nn.Conv1d(features, features, 1) for _ in range(2))
        self.last_conv = nn.Conv1d(features, 3, 1)
        self.bn1, self.bn2 = nn.BatchNorm1d(cond_size), nn.BatchNorm1d(features)
        self.bn_list = nn.ModuleList(nn.BatchNorm1d(features) for _ in range(2))

    def forward(self, template, cond):
        """template [1, d, N], cond [B, C] -> [B, 3, N]."""
        net = functional.relu(self.bn1(self.conv1(template) + cond[:, :, None]))
        net = functional.relu(self.bn2(self.conv2(net)))
        for conv, norm in zip(self.conv_list, self.bn_list, strict=True):
            net = functional.relu(norm(conv(net)))
        return self.last_conv(net)


class Patches(nn.Module):
    def __init__(self, num_patches: int, *sizes: int):
        super().__init__()
        self.decoder = nn.ModuleList(PatchMap(*sizes) for _ in range(num_patches))

    def forward(self, template, cond):
        """template [K, d, N], cond [B, C] -> points [B, K N, 3]."""
        points = [patch(template[i : i + 1], cond) for i, patch in enumerate(self.decoder)]
        return torch.cat(points, dim=2).transpose(1, 2)


class Pointnet(nn.Module):
    def __init__(self, cond_size: int, features: int):
        super().__init__()
        sizes = (3, features, 2 * features, cond_size)
        for i in range(3):
            self.add_module(f'conv{i + 1}', nn.Conv1d(sizes[i], sizes[i + 1], 1))
            self.add_module(f'bn{i + 1}', nn.BatchNorm1d(sizes[i + 1]))
        self.lin1, self.lin2 = nn.Linear(cond_size, cond_size), nn.Linear(cond_size, cond_size)
        self.bn4, self.bn5 = nn.BatchNorm1d(cond_size), nn.BatchNorm1d(cond_size)

    def forward(self, clouds):
        """clouds [B, P, 3] -> cond [B, C]."""
        net = functional.relu(self.bn1(self.conv1(clouds.transpose(1, 2))))
        net = functional.relu(self.bn2(self.conv2(net)))
        net = self.bn3(self.conv3(net)).amax(dim=2)
        net = functional.relu(self.bn4(self.lin1(net)))
        return functional.relu(self.bn5(self.lin2(net)))


class ImageEncoder(ResNet18):
    def __init__(self, cond_size: int):
        super().__init__(cond_size)
        self.mean, self.std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)


class Twin(nn.Module):
    """The network of `config.model`."""

    def __init__(self, model: ConfigDict):
        super().__init__()
        dimension = 3 if model.decoder == 'sphere' else 2
        is_points = model.encoder == 'atlasnet_pointnet'
        self.encoder = (
            Pointnet(model.cond_size, model.encoder_hidden_size) if is_points else ImageEncoder(model.cond_size)
        )
        self.decoder = Patches(model.num_patches, dimension, model.cond_size, model.decoder_hidden_size)

    def forward(self, inputs, template):
        """inputs [B, ...], template [K, d, N] -> points [B, K N, 3]."""
        return self.decoder(template, self.encoder(inputs))


def chamfer_distance(points, surface):
    """points [B, N, 3], surface [B, M, 3] -> squared distances, mean plus mean."""
    squares = (points**2).sum(2)[:, :, None] + (surface**2).sum(2)[:, None] - 2 * points @ surface.transpose(1, 2)
    return squares.amin(dim=2).mean() + squares.amin(dim=1).mean()


def load_twin(config: ConfigDict, state: Mapping[str, np.ndarray]) -> Twin:
    """With official weights, of `onet_jax.convert.official`."""
    twin = Twin(config.model)
    prefix = 'encoder.' if config.model.encoder == 'atlasnet_resnet18' else '-'
    names = {name: name.replace(prefix, 'encoder.features.') if '.fc.' not in name else name for name in state}
    twin.load_state_dict({names[name]: torch.from_numpy(np.array(array)) for name, array in state.items()})
    return twin


def make_step(
    config: ConfigDict, state: Mapping[str, np.ndarray], batch: dict, device: str, compiled: bool
) -> Callable[[], float]:
    """step() -> loss: forward pass, backward pass and Adam on a batch, done when it returns.

    state: weights by their official names. With `config.train.dtype` 'bfloat16' it is automatic mixed precision; weights stay
    float32. compiled: with torch.compile.
    """
    twin = load_twin(config, state).train().to(device)
    optimizer = torch.optim.Adam(twin.parameters(), lr=config.optim.learning_rate)
    network = torch.compile(twin) if compiled else twin
    (inputs,) = (torch.from_numpy(np.array(array)).to(device) for array in batch['inputs'].values())
    surface = torch.from_numpy(np.array(batch['targets']['surface'])).to(device)
    num_patches, is_sphere = config.model.num_patches, config.model.decoder == 'sphere'
    shape = num_patches, 3 if is_sphere else 2, config.model.num_predicted_points // num_patches

    def step():
        optimizer.zero_grad(set_to_none=True)
        template = torch.randn(shape, device=device) if is_sphere else torch.rand(shape, device=device)
        template = functional.normalize(template, dim=1) if is_sphere else template
        with torch.autocast(device, torch.bfloat16, enabled=config.train.dtype == 'bfloat16'):
            points = network(inputs, template)
        loss = chamfer_distance(points.float(), surface)
        loss.backward()
        optimizer.step()
        if device == 'cuda':
            torch.cuda.synchronize()
        return loss.item()

    return step
