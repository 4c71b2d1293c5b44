"""The public names of the package, and what its import does."""

import os
import subprocess
import sys

import pytest
from entry_points import launch
from ml_collections import ConfigDict

import onet_jax


def test_the_public_names_are_listed_and_found():
    assert set(dir(onet_jax)) == {*onet_jax.__all__, '__version__'}
    for name in dir(onet_jax):
        assert getattr(onet_jax, name) is not None


@pytest.mark.parametrize(
    'module, name, message',
    [
        (onet_jax, 'lood', "'onet_jax' has no attribute 'lood'"),
        (onet_jax.configs, 'onet_point', "no attribute 'onet_point'; its configs are atlasnet, "),
    ],
)
def test_a_name_that_does_not_exist_is_an_error(module, name, message):
    with pytest.raises(AttributeError, match=message):
        getattr(module, name)


def test_configs_are_functions_of_their_variants(tmp_path):
    assert {'onet_points', 'psgn', 'load_config'} <= set(dir(onet_jax.configs))
    config = onet_jax.configs.onet_points('tiny,nocbn')
    assert isinstance(config, ConfigDict)
    assert config == onet_jax.configs.load_config('onet_points:tiny,nocbn')
    mine = tmp_path / 'mine.py'
    mine.write_text(
        'from onet_jax.configs import experiment, optim\n'
        'def get_config(arg):\n'
        '    return experiment(seed=int(arg), optim=optim(learning_rate=0.5))\n'
    )
    config = onet_jax.configs.load_config(f'{mine}:7')
    assert (config.seed, config.optim.learning_rate, config.optim.name) == (7, 0.5, 'adam')


@pytest.mark.slow
@pytest.mark.parametrize(
    'before, set_to, expected',
    [
        ('', None, '/cache/compiled'),
        ('import jax', None, '/cache/compiled'),
        ('import jax', '/elsewhere', '/elsewhere'),
        ('', '/elsewhere', '/elsewhere'),
    ],
)
def test_compiled_programs_are_kept_where_nobody_says_otherwise(tmp_path, before, set_to, expected):
    environment = {key: value for key, value in os.environ.items() if not key.startswith('JAX_')}
    environment |= {'ONET_JAX_CACHE': '/cache'} | ({'JAX_COMPILATION_CACHE_DIR': set_to} if set_to else {})
    program = f'{before}\nimport onet_jax, jax\nprint(jax.config.jax_compilation_cache_dir)'
    done = subprocess.run([sys.executable, '-c', program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_what_is_no_flag_is_refused(tmp_path):
    """Else a shell's expansion of `--input *.xyz` would be its first file, and `--accept_changes False` would mean True."""
    config = ['--config=onet_points:tiny', f'--workdir={tmp_path}/w']
    for words, found in ((['--accept_changes', 'False'], "'False'"), (['a.xyz', 'b.xyz'], "'a.xyz' 'b.xyz'")):
        done = launch('train', *config, *words)
        assert done.returncode == 1
        assert done.stderr.startswith(f'error: expected flags, as in --name=value, found {found} beside them')
    assert not list(tmp_path.iterdir())
