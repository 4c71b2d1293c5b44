"""The networks of configs/onet_{points,image,voxels}.py and their training step in plain PyTorch: the yardstick of `train.py`.

Sub-modules carry the names of the official checkpoints, so that `onet_jax.convert.official` moves the weights. B batch,
T points, C condition, F features; channels come second, as PyTorch likes them.
"""

from collections.abc import Callable

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ConditionalBatchNorm(nn.Module):
    def __init__(self, cond_size: int, features: int):
        super().__init__()
        self.conv_gamma, self.conv_beta = nn.Conv1d(cond_size, features, 1), nn.Conv1d(cond_size, features, 1)
        self.bn = nn.BatchNorm1d(features, affine=False)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        nn.init.ones_(self.conv_gamma.bias)

    def forward(self, x, cond):
        """x [B, F, T], cond [B, C, 1] -> [B, F, T]."""
        return self.conv_gamma(cond) * self.bn(x) + self.conv_beta(cond)


class ConditionalBlock(nn.Module):
    def __init__(self, cond_size: int, features: int):
        super().__init__()
        self.bn_0, self.bn_1 = ConditionalBatchNorm(cond_size, features), ConditionalBatchNorm(cond_size, features)
        self.fc_0, self.fc_1 = nn.Conv1d(features, features, 1), nn.Conv1d(features, features, 1)
        nn.init.zeros_(self.fc_1.weight)

    def forward(self, x, cond):
        net = self.fc_0(functional.relu(self.bn_0(x, cond)))
        return x + self.fc_1(functional.relu(self.bn_1(net, cond)))


class Decoder(nn.Module):
    def __init__(self, cond_size: int, features: int):
        super().__init__()
        self.fc_p = nn.Conv1d(3, features, 1)
        for i in range(5):
            self.add_module(f'block{i}', ConditionalBlock(cond_size, features))
        self.bn, self.fc_out = ConditionalBatchNorm(cond_size, features), nn.Conv1d(features, 1, 1)

    def forward(self, points, cond):
        """points [B, T, 3], cond [B, C] -> logits [B, T]."""
        net, cond = self.fc_p(points.transpose(1, 2)), cond[:, :, None]
        for i in range(5):
            net = getattr(self, f'block{i}')(net, cond)
        return self.fc_out(functional.relu(self.bn(net, cond)))[:, 0]


class LinearBlock(nn.Module):
    def __init__(self, fan_in: int, features: int):
        super().__init__()
        self.fc_0, self.fc_1 = nn.Linear(fan_in, features), nn.Linear(features, features)
        self.shortcut = nn.Linear(fan_in, features, bias=False)
        nn.init.zeros_(self.fc_1.weight)

    def forward(self, x):
        return self.shortcut(x) + self.fc_1(functional.relu(self.fc_0(functional.relu(x))))


class Pointnet(nn.Module):
    def __init__(self, cond_size: int, features: int):
        super().__init__()
        self.fc_pos, self.fc_c = nn.Linear(3, 2 * features), nn.Linear(features, cond_size)
        for i in range(5):
            self.add_module(f'block_{i}', LinearBlock(2 * features, features))

    def forward(self, points):
        """points [B, N, 3] -> cond [B, C]."""
        net = self.fc_pos(points)
        for i in range(5):
            net = getattr(self, f'block_{i}')(net)
            pooled = net.amax(dim=1, keepdim=True)
            if i < 4:
                net = torch.cat([net, pooled.expand(net.shape)], dim=2)
        return self.fc_c(functional.relu(pooled[:, 0]))


class VoxelEncoder(nn.Module):
    def __init__(self, cond_size: int, features: int):
        super().__init__()
        self.conv_in = nn.Conv3d(1, features, 3, padding=1)
        for i in range(4):
            layer = nn.Conv3d(features << i, features << (i + 1), 3, stride=2, padding=1)
            self.add_module(f'conv_{i}', layer)
        self.fc = nn.Linear(features * 16 * 8, cond_size)

    def forward(self, voxels):
        """voxels [B, 32, 32, 32] -> cond [B, C]."""
        net = self.conv_in(voxels[:, None])
        for i in range(4):
            net = getattr(self, f'conv_{i}')(functional.relu(net))
        return self.fc(functional.relu(net.flatten(1)))


class ImageBlock(nn.Module):
    def __init__(self, fan_in: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, features, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(features), nn.BatchNorm2d(features)
        if stride > 1:
            shortcut = nn.Conv2d(fan_in, features, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(features))

    def forward(self, x):
        net = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(net + (self.downsample(x) if hasattr(self, 'downsample') else x))


class ResNet18(nn.Module):
    def __init__(self, cond_size: int):
        super().__init__()
        trunk = nn.Module()
        trunk.conv1, trunk.bn1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64)
        for i in range(4):
            features = 64 << i
            first = ImageBlock(max(64, features // 2), features, 2 if i else 1)
            trunk.add_module(f'layer{i + 1}', nn.Sequential(first, ImageBlock(features, features, 1)))
        self.features, self.fc = trunk, nn.Linear(512, cond_size)
        self.register_buffer('mean', torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images):
        """images [B, H, W, 3] in [0, 1] -> cond [B, C]."""
        trunk, net = self.features, (images.permute(0, 3, 1, 2) - self.mean) / self.std
        net = functional.max_pool2d(functional.relu(trunk.bn1(trunk.conv1(net))), 3, stride=2, padding=1)
        for i in range(4):
            net = getattr(trunk, f'layer{i + 1}')(net)
        return self.fc(net.mean(dim=(2, 3)))


class Twin(nn.Module):
    """The network of `config.model`: decoder `cbatchnorm` and one of the three encoders of the paper."""

    def __init__(self, model: ConfigDict):
        super().__init__()
        encoders = {
            'pointnet_resnet': lambda: Pointnet(model.cond_size, model.encoder_hidden_size),
            'voxel_simple': lambda: VoxelEncoder(model.cond_size, model.get('encoder_hidden_size', 32)),
            'resnet18': lambda: ResNet18(model.cond_size),
        }
        self.encoder, self.decoder = encoders[model.encoder](), Decoder(model.cond_size, model.decoder_hidden_size)

    def forward(self, points, inputs):
        """points [B, T, 3], inputs [B, ...] -> logits [B, T]."""
        return self.decoder(points, self.encoder(inputs))


def load_twin(config: ConfigDict, state: dict[str, np.ndarray]) -> Twin:
    """The network of a config with weights by their official names."""
    twin = Twin(config.model)
    twin.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in state.items()})
    return twin


def make_step(
    config: ConfigDict, state: dict[str, np.ndarray], batch: dict, device: str, compiled: bool
) -> Callable[[], float]:
    """step() -> loss: forward pass, backward pass and Adam on a batch, done when it returns.

    state: weights by their official names. With `config.train.dtype` 'bfloat16' it is automatic mixed precision; weights stay
    float32. compiled: with torch.compile.
    """
    twin = load_twin(config, state).train().to(device)
    optimizer = torch.optim.Adam(twin.parameters(), lr=config.optim.learning_rate)
    network = torch.compile(twin) if compiled else twin
    arrays = batch['targets']['points'], batch['targets']['occ'], *batch['inputs'].values()
    points, occ, inputs = (torch.from_numpy(np.array(array)).to(device) for array in arrays)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=config.train.dtype == 'bfloat16'):
            logits = network(points, inputs)
        errors = functional.binary_cross_entropy_with_logits(logits.float(), occ, reduction='none')
        loss = errors.sum(dim=1).mean()
        loss.backward()
        optimizer.step()
        if device == 'cuda':
            torch.cuda.synchronize()
        return loss.item()

    return step
