"""The work in a program that XLA compiled, read from the text of its HLO: FLOP, traffic of the memory, collectives, cycles.

XLA's own cost analysis counts the body of a loop once, and takes no notice of arrays that a TPU keeps beside its cores (VMEM)
instead of in its memory (HBM); this counts a loop as often as it runs, and HBM alone. Of programs for TPUs the text also says
how many cycles the compiler expects of most instructions; of gathers, scatters, sorts and collectives it does not.
"""

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast')
BITS = {
    'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 'bf16': 16, 'f16': 16, 's32': 32, 'u32': 32, 'f32': 32,
    's64': 64, 'u64': 64, 'f64': 64, 'c64': 64, 'c128': 128, 'token': 0, 'opaque': 0,
}  # fmt: skip
# Instructions that move nothing: they name what is there, or what other instructions do.
FREE = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call', 'after-all',
    'partition-id', 'opt-barrier', 'copy-done', 'slice-done', 'async-done', *(f'{kind}-done' for kind in COLLECTIVES),
}  # fmt: skip
FREE_CALLS = ('AllocateBuffer', 'ConcatBitcast', 'Sharding')
PARTIAL = ('dynamic-slice', 'gather', 'dynamic-update-slice')  # they touch a part of their first operand

COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.\-]+) (?:\([^\n]*\) -> [^\n]*)?\{$')
INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\((.*)$')
ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([\d,]*)((?::[^{}]*)?)\})?')
TILE = re.compile(r'T\(([\d,]+)\)')
NAME = re.compile(r'%([\w.\-]+)')


class Instruction(NamedTuple):
    """name = shape opcode(operands), and what follows."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    is_root: bool


class Collective(NamedTuple):
    """What devices exchange at once."""

    kind: str
    num_bytes: int  # of its result
    times: int  # how often it runs


class Work(NamedTuple):
    """What one device does in one run of a program."""

    flops: float  # of matrix products and convolutions, a multiply-add being two
    traffic: float  # bytes that instructions read from memory and write to it, as arrays lie there; VMEM left out
    cycles: float  # that the compiler of TPUs expects of those instructions of which it says it; 0: of none
    collectives: tuple[Collective, ...]
    open_loops: int  # loops that run until some value is reached; their bodies are counted once

    def exchanged(self) -> dict[str, tuple[int, int]]:
        """Kind -> how many collectives run, and their bytes."""
        found: dict[str, tuple[int, int]] = {}
        for kind, num_bytes, times in self.collectives:
            count, total = found.get(kind, (0, 0))
            found[kind] = count + times, total + times * num_bytes
        return found


def read_work(hlo: str) -> Work:
    """The work in the text of a compiled module, `jax.stages.Compiled.as_text()`."""
    computations, entry = _parse(hlo)
    flops = traffic = cycles = 0.0
    collectives, open_loops = [], 0
    for name, times, is_fused in _visit(computations, entry, 1, False):
        instructions = computations[name]
        for instruction in instructions.values():
            flops += times * _count_flops(instruction, instructions)
            if (kind := instruction.opcode.removesuffix('-start')) in COLLECTIVES:
                collectives.append(Collective(kind, _result_bytes(instruction), times))
            if is_fused:
                continue
            if instruction.opcode == 'while':
                open_loops += _count_rounds(instruction, computations) is None
            elif expected := re.search(r'"estimated_cycles":"(\d+)"', instruction.rest):
                cycles += times * int(expected[1])
            traffic += times * _count_traffic(instruction, computations, instructions)
    return Work(flops, traffic, cycles, tuple(collectives), open_loops)


def size_of(shape: str, *, in_memory: bool = False) -> float:
    """Bytes of the arrays of a shape; in memory: of those in HBM, with the padding of their tiles."""
    total = 0.0
    for kind, dims, order, layout in ARRAY.findall(shape):
        if kind not in BITS or (in_memory and 'S(' in layout):
            continue
        lengths = [int(n) for n in dims.split(',') if n]
        if in_memory and (tile := TILE.search(layout)) and order:
            lengths = [
                lengths[int(axis)] for axis in reversed(order.split(','))
            ]  # the axis that varies fastest is the last
            for i, edge in enumerate(map(int, reversed(tile[1].split(','))), start=1):
                if i <= len(lengths):
                    lengths[-i] = -(-lengths[-i] // edge) * edge
        total += math.prod(lengths) * BITS[kind] / 8
    return total


def _parse(hlo: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """Computation -> its instructions by name, and the name of the first computation to run."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = '', {}
    for line in hlo.splitlines():
        if line and not line[0].isspace():
            if match := COMPUTATION.match(line):
                current = computations.setdefault(match[2], {})
                entry = match[2] if match[1] else entry
        elif match := INSTRUCTION.match(line):
            root, name, shape, opcode, rest = match.groups()
            operands = tuple(NAME.findall(rest[: _closing(rest)]))
            current[name] = Instruction(name, shape, opcode, operands, rest, bool(root))
    return computations, entry


def _closing(text: str) -> int:
    """Where the parenthesis closes that was opened before the text."""
    depth = 1
    for match in re.finditer(r'[()]', text):
        depth += 1 if match[0] == '(' else -1
        if depth == 0:
            return match.start()
    return len(text)


def _visit(computations: dict, name: str, times: int, is_fused: bool) -> Iterator[tuple[str, int, bool]]:
    """(computation, how often it runs, whether it is part of a fusion), of a computation and all that it calls."""
    yield name, times, is_fused
    for instruction in computations[name].values():
        if instruction.opcode == 'while':
            rounds = _count_rounds(instruction, computations)
            yield from _visit(computations, _attribute(instruction, 'body'), times * (rounds or 1), is_fused)
        elif instruction.opcode in ('fusion', 'call', 'async-start'):
            called = _attribute(instruction, 'calls') or _attribute(instruction, 'to_apply')
            if called in computations:
                fuses = is_fused or instruction.opcode == 'fusion'
                yield from _visit(computations, called, times, fuses)
        elif instruction.opcode == 'conditional':
            branches = re.search(r'branch_computations=\{([^}]*)\}', instruction.rest)
            names = NAME.findall(branches[1]) if branches else []
            names += [_attribute(instruction, f'{value}_computation') for value in ('true', 'false')]
            for branch in filter(None, names):
                yield from _visit(computations, branch, times, is_fused)


def _attribute(instruction: Instruction, key: str) -> str:
    match = re.search(rf'\b{key}=%?([\w.\-]+)', instruction.rest)
    return match[1] if match else ''


def _count_rounds(loop: Instruction, computations: dict) -> int | None:
    """How often a loop runs, if it counts from 0 to a number; else None."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition = computations[_attribute(loop, 'condition')]
    (root,) = (instruction for instruction in condition.values() if instruction.is_root)
    last = condition.get(root.operands[-1]) if root.operands else None
    if root.opcode == 'compare' and 'direction=LT' in root.rest and last is not None and last.opcode == 'constant':
        return int(last.rest[: _closing(last.rest)])
    return None


def _result_bytes(instruction: Instruction) -> int:
    """Bytes of the result of a collective: that which starts an all-gather or the like returns its operand as well."""
    arrays = [match[0] for match in re.finditer(ARRAY, instruction.shape)]
    if instruction.opcode.endswith('-start') and not instruction.opcode.startswith('all-reduce'):
        arrays = arrays[1:2]
    return int(sum(map(size_of, arrays)))


def _count_traffic(instruction: Instruction, computations: dict, instructions: dict[str, Instruction]) -> float:
    """Bytes that an instruction reads from HBM and writes there."""
    if instruction.opcode in FREE or any(f'"{call}"' in instruction.rest for call in FREE_CALLS):
        return 0.0
    if instruction.opcode in ('copy-start', 'slice-start'):  # its result has both sides
        sides = [match[0] for match in ARRAY.finditer(instruction.shape)][:2]
        return min(map(size_of, sides)) * sum('S(' not in side for side in sides)
    moved = size_of(instruction.shape, in_memory=True)
    for i, operand in enumerate(instruction.operands):
        if operand not in instructions:
            continue
        whole, name, inner = size_of(instructions[operand].shape, in_memory=True), operand, instructions
        users = [instruction]
        if instruction.opcode == 'fusion':
            inner = computations[_attribute(instruction, 'calls')]
            name = next(x.name for x in inner.values() if x.opcode == 'parameter' and x.rest.startswith(f'{i})'))
            users = [user for user in inner.values() if name in user.operands]
        moved += whole
        if users and all(user.opcode in PARTIAL and user.operands[0] == name for user in users):
            updates = any(
                user.opcode == 'dynamic-update-slice' for user in users
            )  # in place: no more is written either
            spared = whole - sum(size_of(_part(user, inner)) for user in users)
            moved -= max(spared, 0.0) * (2 if updates else 1)
    return max(moved, 0.0)


def _part(user: Instruction, instructions: dict[str, Instruction]) -> str:
    """The shape of what an instruction reads, or replaces, of its first operand."""
    return instructions[user.operands[1]].shape if user.opcode == 'dynamic-update-slice' else user.shape


def _count_flops(instruction: Instruction, instructions: dict[str, Instruction]) -> float:
    """FLOP of a matrix product or a convolution; 0 of all else."""
    if instruction.opcode not in ('dot', 'convolution'):
        return 0.0
    out = _dims(instruction.shape)
    left, right = (_dims(instructions[name].shape) for name in instruction.operands[:2])
    if instruction.opcode == 'dot':
        summed = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', instruction.rest)
        axes = [int(axis) for axis in summed[1].split(',') if axis] if summed else []
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in axes)
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', instruction.rest)
    window = re.search(r'window=\{([^}]*)\}', instruction.rest)
    if labels is None:
        return 0.0
    settings = dict(item.split('=') for item in window[1].split()) if window else {}
    count = 2.0 * out[labels[3].index('b')] * out[labels[3].index('f')] * right[labels[2].index('i')]
    for i in range(len(out) - 2):
        steps = [
            int(settings[key].split('x')[i]) if key in settings else 1 for key in ('stride', 'lhs_dilate', 'rhs_dilate')
        ]
        before = int(settings['pad'].split('x')[i].split('_')[0]) if 'pad' in settings else 0
        lengths = (array[names.index(str(i))] for array, names in zip((left, right, out), labels.groups(), strict=True))
        count *= _count_pairs(*lengths, *steps, before)
    return count


@lru_cache(maxsize=1024)
def _count_pairs(inputs: int, taps: int, outputs: int, stride: int, dilation: int, spacing: int, before: int) -> int:
    """Pairs of an output and a tap of a convolution along an axis that meet an input, not padding or a gap."""
    places = stride * np.arange(outputs)[:, None] + spacing * np.arange(taps) - before
    return int(np.count_nonzero((places >= 0) & (places <= (inputs - 1) * dilation) & (places % dilation == 0)))


def _dims(shape: str) -> list[int]:
    match = ARRAY.search(shape)
    return [int(n) for n in match[2].split(',') if n] if match else []
