import ast
import logging
import os
import re
from collections import namedtuple
from pathlib import Path

import pytest

from onet_jax.training import machine
from onet_jax.training.machine import Facts, diagnose, examine, gather_facts

H100 = 'NVIDIA H100 80GB HBM3, 580.65.06, 81559 MiB'
GPU = Facts('cpu', nvidia=True, gpus=(H100,))
TPU = Facts('cpu', tpu=True, libtpu='0.0.30')
PLUGIN = 'jax-cuda13-plugin 0.10.2'


@pytest.mark.parametrize(
    'facts, broken, text',
    [
        (GPU._replace(platform='gpu'), False, 'JAX runs on the GPU'),
        (TPU._replace(platform='tpu'), False, 'JAX runs on the TPU'),
        (Facts(None, 'no cuda', 'cuda'), True, 'JAX does not start: no cuda; JAX_PLATFORMS=cuda asks for it: unset'),
        (Facts(None, 'no memory'), True, 'JAX does not start: no memory'),
        (Facts('cpu', cuda_plugin=PLUGIN), False, 'no GPU is used: there is no NVIDIA driver'),
        (GPU._replace(gpus=(), smi_error='Driver/library version mismatch'), True, 'nvidia-smi says: Driver/library'),
        (GPU._replace(jax_platforms='cpu'), False, 'JAX_PLATFORMS=cpu asks for the CPU; unset it'),
        (GPU._replace(visible_gpus='', cuda_plugin=PLUGIN), False, "CUDA_VISIBLE_DEVICES='' hides all of them"),
        (GPU._replace(visible_gpus='-1'), False, "CUDA_VISIBLE_DEVICES='-1' hides all of them"),
        (GPU._replace(visible_gpus='0'), False, 'this JAX is built for the CPU alone; pip install -U "jax[cuda13]"'),
        (GPU._replace(gpus=('Tesla T4, 535.183.01, 15360 MiB',)), False, 'pip install -U "jax[cuda12]"'),
        (GPU._replace(gpus=('Tesla K80, 470.256.02, 11441 MiB',)), False, 'driver from 470 to 580, then pip install -U'),
        (GPU._replace(gpus=()), False, 'pip install -U "jax[cuda13]"'),
        (GPU._replace(cuda_plugin=PLUGIN, message='CUDA_ERROR_X'), True, f'{PLUGIN} is installed, but failed .*CUDA_ERROR_X'),
        (GPU._replace(cuda_plugin=PLUGIN), True, 'JAX does not say why'),
        (TPU._replace(message='in use by another process'), True, 'no TPU is used: libtpu 0.0.30 .*another process'),
        (TPU._replace(libtpu=None), False, 'no TPU is used: .*pip install -U "jax\\[tpu\\]"'),
        (TPU._replace(tpu=False), False, 'no TPU is used: libtpu 0.0.30 is installed, but no TPU is plugged in'),
        (TPU._replace(jax_platforms='cpu'), False, 'no TPU is used: JAX_PLATFORMS=cpu'),
    ],
)  # fmt: skip
def test_the_reason_is_named_with_its_cure(facts, broken, text):
    found = diagnose(facts)
    assert text in found.text or re.search(text, found.text), found.text
    assert found.broken == broken


@pytest.mark.parametrize(
    'script, gpus, error',
    [
        (f"echo '{H100}'; echo '{H100}'", (H100, H100), ''),
        ('echo NVIDIA-SMI has failed; exit 9', (), 'NVIDIA-SMI has failed'),
        ('exit 3', (), 'nothing, exit code 3'),
    ],
)
def test_facts_are_gathered(monkeypatch, tmp_path, script, gpus, error):
    """With an nvidia-smi of our own, and a warning by JAX."""
    (tmp_path / 'nvidia-smi').write_text(f'#!/bin/sh\n{script}\n')
    (tmp_path / 'nvidia-smi').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1')
    devices = machine.jax.devices

    def warn_first():
        logging.getLogger('jax._src.xla_bridge').warning('no\n  library')
        return devices()

    monkeypatch.setattr(machine.jax, 'devices', warn_first)
    facts = gather_facts()
    assert facts[:2] == ('cpu', 'no library')
    assert (facts.nvidia, facts.gpus, facts.smi_error, facts.visible_gpus) == (True, gpus, error, '1')


def test_a_platform_that_is_not_there_is_a_fact(monkeypatch):
    def fail():
        raise RuntimeError('Unable to initialize backend')

    monkeypatch.setattr(machine.jax, 'devices', fail)
    assert gather_facts()[:2] == (None, 'Unable to initialize backend')


def test_what_is_broken_is_listed(monkeypatch, tmp_path):
    monkeypatch.setenv('ONET_JAX_CACHE', str(tmp_path / 'new' / 'cache'))
    lines, problems = examine()
    assert problems == []
    assert f'embedded datasets: none yet in {tmp_path}/new/cache' in lines
    assert any(line.startswith('devices: 2 x cpu (cpu)') for line in lines)

    (tmp_path / 'new' / 'cache' / 'procedural-1').mkdir(parents=True)
    (tmp_path / 'new' / 'cache' / 'procedural-1' / 'dataset.json').write_bytes(bytes(3_000_000))
    version = machine.version

    def lacking(name):
        if name == 'embreex':
            raise machine.PackageNotFoundError
        return version(name)

    monkeypatch.setattr(machine, 'version', lacking)
    monkeypatch.setattr(machine.shutil, 'disk_usage', lambda _: namedtuple('Usage', 'free')(1e9))
    monkeypatch.setattr(machine.os, 'access', lambda *_: False)
    lines, problems = examine()
    assert f'embedded datasets: 1, 3 MB in {tmp_path}/new/cache' in lines
    assert problems == [
        'packages are missing: embreex; run `pip install -e .`',
        f'{tmp_path}/new/cache cannot be written to; set ONET_JAX_CACHE to another folder',
        f'{tmp_path}/new/cache has 1.0 GB free, less than 2; make room or set ONET_JAX_CACHE',
    ]


def test_the_packages_are_those_of_the_setup():
    tree = ast.parse((Path(__file__).parents[2] / 'setup.py').read_text())
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    assert [re.match(r'[\w-]+', text)[0] for text in ast.literal_eval(values['CORE'])] == list(machine.PACKAGES)
