"""Experiments: `get_config(variant)` of each file returns a locked ConfigDict. Variants combine, as in FILE.py:tiny,nocbn."""

from collections.abc import Sequence

from onet_jax.errors import InputError


def choose(name: str, variant: str, *options: Sequence[str]) -> set[str]:
    """The words of a variant, of which each of `options` may give one. Raises ValueError for others."""
    words = [word for word in variant.split(',') if word]
    unknown = [word for word in words if not any(word in group for group in options)]
    if unknown:
        known = tuple(word for group in options for word in group)
        raise InputError(f'configs/{name}.py: expected a variant of {known}, found {unknown[0]!r}')
    for group in options:
        both = [word for word in words if word in group]
        if len(both) > 1:
            raise InputError(f'configs/{name}.py: expected one of the variants {tuple(group)}, found {both}')
    return set(words)
