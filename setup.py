"""Packaging: the core installs and runs without a compiler, without OpenGL and without TensorFlow."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.*)'", (ROOT / 'onet_jax' / '__init__.py').read_text()).group(1)
# A package index has no files beside the README: pictures and their captions go, and links keep their words.
README = re.sub(r'!\[[^]]*\]\((?!http)[^)]*\)\s*\*[^*]*\*\s*', '', (ROOT / 'README.md').read_text(encoding='utf-8'))
README = re.sub(r'\[([^]]*)\]\((?!http)[^)]*\)', r'\1', README)
CORE = [
    'numpy>=2,<3',
    'scipy>=1.14',
    'jax>=0.10.2',
    'flax>=0.12.7',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12',
    'ml-collections>=1.1',
    'absl-py>=2.1',
    'trimesh>=5.2',
    'embreex>=4.4',
    'manifold3d>=3.5',
    'mapbox-earcut>=1.0.3',
    'scikit-image>=0.26',
    'fast-simplification>=0.2',
    'pillow>=11',
    'safetensors>=0.5',
    'flatbuffers>=24.3',
    'tensorboardX>=2.6.4',
]
# TFDS imports importlib_resources without naming it among its requirements.
DATA = ['tensorflow-cpu>=2.20', 'tensorflow-datasets>=4.9.9', 'importlib_resources>=6']
BEAM = ['apache-beam>=2.77']
HUB = ['huggingface_hub>=0.30']
EXPORT = ['jax2onnx>=0.13']  # later versions want an older orbax-checkpoint, and pip leaves them out
ONNX_RUNTIME = ['onnxruntime>=1.20']  # what the tests call exported functions with
VIDEO = ['imageio-ffmpeg>=0.5']
EXR = ['OpenEXR>=3.3']
TEXTURE = ['xatlas>=0.0.11']
TPU = ['jax[tpu]']
SCAN = ['laspy[lazrs]>=2.5', 'pye57>=0.4.15']
VIEW = ['viser>=1.1']
TEST = ['pytest>=8', 'pytest-xdist>=3.6', 'ruff>=0.14', 'mypy>=2']
# mkdocstrings lets ruff format signatures.
DOCS = ['mkdocs-material>=9.6', 'mkdocstrings[python]>=1', 'latex2mathml>=3.78', 'ruff>=0.14']

setup(
    name='onet_jax',
    version=VERSION,
    description='Occupancy Networks in JAX: 3D reconstruction in function space',
    long_description=README,
    long_description_content_type='text/markdown',
    license='MIT',
    python_requires='>=3.11',
    # The wheel carries commands and configs inside the package: nobody's site-packages gets a top-level `configs`.
    packages=[*find_packages(include=['onet_jax*']), 'onet_jax.configs', 'onet_jax.launch'],
    package_dir={'onet_jax.configs': 'configs', 'onet_jax.launch': 'launch'},
    package_data={'onet_jax': ['py.typed', 'weights/*/*'], 'onet_jax.viz': ['*.html']},
    entry_points={'console_scripts': ['onet = onet_jax.launch.__main__:main']},
    install_requires=CORE,
    extras_require={
        'data': DATA,
        'beam': BEAM,
        'hub': HUB,
        'export': EXPORT,
        'scan': SCAN,
        'video': VIDEO,
        'exr': EXR,
        'texture': TEXTURE,
        'view': VIEW,
        'tpu': TPU,
        'test': TEST,
        'docs': DOCS,
        'dev': DATA + BEAM + EXPORT + ONNX_RUNTIME + SCAN + VIDEO + EXR + TEXTURE + VIEW + TEST + DOCS,
    },
)
