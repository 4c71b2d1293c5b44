"""The paper that CONTRIBUTING.md shows: two files, and everything takes it."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import trimesh

from onet_jax import models
from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.inference.reconstruct import reconstruct_files
from onet_jax.run import load_run
from onet_jax.training.loop import train

GUIDE = Path(__file__).parents[2] / 'CONTRIBUTING.md'


@pytest.mark.slow
def test_a_paper_of_two_files_is_trained_evaluated_and_reconstructed(dataset, tmp_path, monkeypatch):
    paper, config_file = (block.split('```')[0] for block in GUIDE.read_text().split('```python\n')[1:3])
    ball = ModuleType('onet_jax.models.ball')
    exec(compile(paper, 'ball.py', 'exec'), ball.__dict__)
    monkeypatch.setitem(sys.modules, ball.__name__, ball)
    monkeypatch.setattr(models, 'PAPERS', ['ball'])
    names: dict = {}
    exec(compile(config_file, 'config.py', 'exec'), names)
    config = names['get_config']()
    config.train.update(num_steps=40, batch_size=8, eval_every_steps=20, checkpoint_every_steps=20)
    config.optim.learning_rate = 0.02
    train(config, tmp_path / 'run', dataset)

    run = load_run(tmp_path / 'run')
    results = list(evaluate(run.method, run.params, run.config, open_dataset(dataset), 'test'))
    assert len(results) == 3
    assert all(0 < result.scores['iou'] < 1 for result in results)
    cloud = np.random.default_rng(0).normal(size=(1000, 3))
    trimesh.PointCloud(7 + cloud / np.linalg.norm(cloud, axis=1, keepdims=True)).export(tmp_path / 'ball.ply')
    (mesh,) = reconstruct_files(run.method, run.params, run.config, tmp_path / 'ball.ply', tmp_path / 'out', 'ply')
    np.testing.assert_allclose(trimesh.load(mesh).bounds.mean(axis=0), 7, atol=0.1)
