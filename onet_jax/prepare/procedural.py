"""Procedural man-made objects: ten families with the variety, the thin parts and the holes of real furniture.

Every family is a function rng -> (parts, cuts), primitives of constructive solid geometry. y is up and the front looks along
+z; lengths are roughly in units of the object, which is normalised afterwards. Same (seed, family, index), same solid in the
same colours. Imports no JAX.
"""

import zlib
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from onet_jax.errors import InputError
from onet_jax.prepare import constructive_solids as csg
from onet_jax.prepare.constructive_solids import Box, Ellipsoid, Frustum, Hull, Primitive, Revolution, Torus

Parts = tuple[Sequence[Primitive], Sequence[Primitive]]
SIGNS = tuple(product((-1, 1), (-1, 1)))  # the four corners of a rectangle


def make_shape(seed: int, family: str, index: int) -> csg.ConstructiveSolid:
    """Number `index` of a family. Raises InputError for an unknown family."""
    if family not in MAKERS:
        raise InputError(f'family: expected one of {FAMILIES}, found {family!r}')
    entropy = (seed, zlib.crc32(family.encode()), index)
    parts, cuts = MAKERS[family](np.random.default_rng(np.random.SeedSequence(entropy)))
    return csg.ConstructiveSolid(parts, cuts, csg.draw_colours(entropy, len(parts) + len(cuts)))


def taper(
    bottom: Sequence[float], top: Sequence[float], bottom_size: Sequence[float], top_size: Sequence[float]
) -> Hull:
    """A tapered block between two horizontal rectangles, given by centres [3] and sizes (x, z)."""
    return Hull(
        tuple(
            (c[0] + sx * s[0] / 2, c[1], c[2] + sz * s[1] / 2)
            for c, s in ((bottom, bottom_size), (top, top_size))
            for sx, sz in SIGNS
        )
    )


def legs(rng: np.random.Generator, width: float, depth: float, height: float, thickness: float) -> list[Primitive]:
    """Four legs from the floor to `height` at the corners of a rectangle: square, round or tapered, perhaps splayed."""
    style = rng.integers(3)
    splay = rng.uniform(0.0, 0.06) if style else 0.0
    inset = thickness / 2 + splay
    result: list[Primitive] = []
    for sx, sz in SIGNS:
        x, z = sx * (width / 2 - inset), sz * (depth / 2 - inset)
        foot, top = (x + sx * splay, 0.0, z + sz * splay), (x, height, z)
        if style == 0:
            result.append(Box((x, height / 2, z), (thickness, height, thickness)))
        elif style == 1:
            result.append(Frustum(foot, top, thickness * 0.35, thickness * 0.55))
        else:
            result.append(taper(foot, top, [thickness * 0.6] * 2, [thickness * 1.1] * 2))
    return result


def pedestal(rng: np.random.Generator, height: float, radius: float) -> list[Primitive]:
    """A column on a disc or on a cross of feet."""
    column = Frustum((0, 0.02, 0), (0, height, 0), rng.uniform(0.03, 0.05), rng.uniform(0.025, 0.045))
    if rng.random() < 0.5:
        return [column, Frustum((0, 0, 0), (0, rng.uniform(0.03, 0.05), 0), radius, radius * rng.uniform(0.6, 1.0))]
    turn = rng.uniform(0, np.pi / 2)
    count = rng.integers(4, 6)
    feet = [turn + 2 * np.pi * i / count for i in range(count)]
    return [
        column,
        *(Frustum((0, 0.06, 0), (radius * np.cos(a), 0.025, radius * np.sin(a)), 0.03, 0.022) for a in feet),
    ]


def chair(rng: np.random.Generator) -> Parts:
    width, depth = rng.uniform(0.42, 0.6), rng.uniform(0.42, 0.58)
    height, thickness = rng.uniform(0.36, 0.5), rng.uniform(0.03, 0.08)
    leg, back = rng.uniform(0.035, 0.06), rng.uniform(0.38, 0.58)
    base = (
        pedestal(rng, height, 0.5 * min(width, depth)) if rng.random() < 0.2 else legs(rng, width, depth, height, leg)
    )
    if rng.random() < 0.25:
        seat = Frustum((0, height, 0), (0, height + thickness, 0), width / 2, width / 2)
    else:
        seat = Box((0, height + thickness / 2, 0), (width, thickness, depth))

    bottom, top = height + thickness, height + thickness + back
    rear, lean = -depth / 2 + leg / 2, rng.uniform(0.0, 0.12)

    def at(y):
        """Where the leaning plane of the back is at height y."""
        return rear - lean * (y - bottom) / back

    def board(low, high, thickness):
        return taper((0, low, at(low)), (0, high, at(high)), (width, thickness), (width, thickness))

    parts = [*base, seat, *arms(rng, width, depth, bottom, leg)]
    style = rng.integers(4)
    if style == 0:  # a panel, perhaps with a gap above the seat
        parts.append(
            taper((0, bottom - 0.01, rear), (0, top, at(top)), (width, leg), (width * rng.uniform(0.75, 1), leg))
        )
        gap = rng.uniform(0, 0.14)
        return parts, [Box((0, bottom + gap / 2, rear), (width - 3 * leg, gap, 4 * leg))] if gap > 0.06 else []
    rail = rng.uniform(0.05, 0.1)
    for x in (-(width - leg) / 2, (width - leg) / 2):
        parts.append(Frustum((x, bottom - 0.02, rear), (x, top, at(top)), leg / 2, leg / 2))
    parts.append(board(top - rail, top, leg))
    if style == 1:  # vertical slats
        for x in np.linspace(-0.5, 0.5, rng.integers(4, 7))[1:-1] * (width - leg):
            parts.append(Frustum((x, bottom - 0.02, rear), (x, top - rail / 2, at(top)), leg * 0.35, leg * 0.35))
    else:  # horizontal slats
        parts += [
            board(y, y + rail * 0.7, leg * 0.8)
            for y in np.linspace(bottom + 0.12, top - rail - 0.06, rng.integers(1, 4))
        ]
    return parts, []


def arms(rng: np.random.Generator, width: float, depth: float, bottom: float, leg: float) -> list[Primitive]:
    """A pair of armrests on posts, or none."""
    if rng.random() < 0.6:
        return []
    rise, reach = rng.uniform(0.16, 0.26), rng.uniform(0.6, 0.95) * depth
    result: list[Primitive] = []
    for sx in (-1, 1):
        x, front = sx * (width - leg) / 2, -depth / 2 + reach
        result.append(Box((x, bottom + rise, -depth / 2 + reach / 2), (leg * 1.2, leg, reach)))
        result.append(Box((x, bottom + rise / 2, front - leg), (leg, rise, leg)))
    return result


def table(rng: np.random.Generator) -> Parts:
    width, depth = rng.uniform(0.6, 1.0), rng.uniform(0.4, 0.7)
    height, top = rng.uniform(0.3, 0.7), rng.uniform(0.03, 0.07)
    leg = rng.uniform(0.035, 0.07)
    style = rng.integers(4)
    if style == 0:  # round
        radius = rng.uniform(0.3, 0.5)
        plate = Frustum((0, height - top, 0), (0, height, 0), radius, radius)
        return [plate, *pedestal(rng, height - top / 2, radius * rng.uniform(0.5, 0.75))], []
    plate = Box((0, height - top / 2, 0), (width, top, depth))
    if style == 1:  # two panels
        parts = [
            Box((sx * (width * 0.4), (height - top / 2) / 2, 0), (leg, height - top / 2, depth * 0.85))
            for sx in (-1, 1)
        ]
        return [plate, *parts, Box((0, height * 0.5, 0), (width * 0.8, height * 0.2, leg * 0.8))], []
    parts = [plate, *legs(rng, width * 0.96, depth * 0.94, height - top / 2, leg)]
    if rng.random() < 0.4:  # a shelf between the legs
        parts.append(Box((0, height * rng.uniform(0.2, 0.4), 0), (width * 0.9, leg * 0.7, depth * 0.85)))
    elif rng.random() < 0.5:  # an apron under the plate
        drop = rng.uniform(0.06, 0.14)
        parts.append(Box((0, height - top - drop / 2 + 0.01, 0), (width * 0.85, drop, depth * 0.8)))
    return parts, []


def lamp(rng: np.random.Generator) -> Parts:
    height, shade = rng.uniform(0.6, 1.0), rng.uniform(0.2, 0.34)
    pole, low, high = rng.uniform(0.016, 0.03), rng.uniform(0.16, 0.28), rng.uniform(0.07, 0.16)
    foot, wall = rng.uniform(0.12, 0.22), 0.03
    base = Frustum((0, 0, 0), (0, rng.uniform(0.03, 0.06), 0), foot, foot * rng.uniform(0.5, 1.0))
    column = Frustum((0, 0.01, 0), (0, height + shade - 0.01, 0), pole, pole)
    parts: list[Primitive] = [base, column]
    if rng.random() < 0.4:  # a turned body around the pole
        middle, belly = height * rng.uniform(0.3, 0.5), rng.uniform(0.07, 0.13)
        parts.append(Ellipsoid((0, middle, 0), (belly, height * rng.uniform(0.2, 0.3), belly)))
    if rng.random() < 0.3:  # a closed globe
        radius = shade * 0.6
        return [*parts, Ellipsoid((0, height + radius, 0), (radius, radius, radius))], []
    top = height + shade
    profile = (
        (height, low - wall, low),
        (top - wall, max(high - wall, 0.03), high),
        (top - wall, 0, high),
        (top, 0, high),
    )
    bulb = Ellipsoid((0, height + shade * 0.5, 0), (0.05, 0.07, 0.05))
    return [*parts, Revolution((0, 0, 0), profile), bulb], []


def sofa(rng: np.random.Generator) -> Parts:
    width, depth = rng.uniform(0.8, 1.0), rng.uniform(0.35, 0.48)
    seat, back = rng.uniform(0.16, 0.24), rng.uniform(0.34, 0.46)
    arm, rise = rng.uniform(0.07, 0.13), rng.uniform(0.24, 0.36)
    foot = rng.uniform(0.0, 0.07)
    behind, lean = rng.uniform(0.09, 0.15), rng.uniform(0.0, 0.07)
    parts: list[Primitive] = [Box((0, (foot + seat) / 2, 0), (width, seat - foot, depth))]
    parts.append(
        taper(
            (0, foot, -depth / 2 + behind / 2),
            (0, back, -depth / 2 + behind / 2 - lean),
            (width, behind),
            (width, behind * 0.7),
        )
    )
    round_arms = rng.random() < 0.4
    for sx in (-1, 1):
        x = sx * (width / 2 - arm / 2)
        if rise > seat + 0.03:
            parts.append(Box((x, (foot + rise) / 2, 0), (arm, rise - foot, depth)))
            if round_arms:
                parts.append(Frustum((x, rise, -depth / 2), (x, rise, depth / 2), arm * 0.6, arm * 0.6))
    cushions, room = rng.integers(1, 4), width - 2 * arm
    for i in range(cushions):
        x = (-0.5 + (i + 0.5) / cushions) * room
        size = (room / cushions - 0.012, 0.05, depth - behind)
        parts.append(Box((x, seat + 0.02, behind / 2), size))
    if foot > 0.03:
        parts += [
            Box((sx * (width / 2 - 0.05), foot / 2 + 0.005, sz * (depth / 2 - 0.05)), (0.045, foot + 0.01, 0.045))
            for sx, sz in SIGNS
        ]
    return parts, []


def shelf(rng: np.random.Generator) -> Parts:
    width, height, depth = rng.uniform(0.4, 0.8), rng.uniform(0.7, 1.0), rng.uniform(0.2, 0.34)
    board, boards = rng.uniform(0.025, 0.045), rng.integers(2, 6)
    sides = [Box((sx * (width - board) / 2, height / 2, 0), (board, height, depth)) for sx in (-1, 1)]
    lowest = board / 2 + (rng.uniform(0.04, 0.1) if rng.random() < 0.5 else 0.0)
    levels = [Box((0, y, 0), (width, board, depth)) for y in np.linspace(lowest, height - board / 2, boards + 1)]
    parts: list[Primitive] = [*sides, *levels]
    if rng.random() < 0.6:  # a back panel
        parts.append(Box((0, height / 2, -depth / 2 + board / 2), (width, height, board)))
    if rng.random() < 0.4:  # a partition
        parts.append(Box((width * rng.uniform(-0.2, 0.2), height / 2, 0), (board, height, depth)))
    if rng.random() < 0.3:  # closed below
        parts.append(Box((0, (lowest + height / boards) / 2, 0), (width, height / boards, depth * 0.96)))
    return parts, []


def bench(rng: np.random.Generator) -> Parts:
    width, depth = rng.uniform(0.8, 1.0), rng.uniform(0.24, 0.36)
    height, board = rng.uniform(0.26, 0.38), rng.uniform(0.03, 0.05)
    leg = rng.uniform(0.035, 0.06)
    parts: list[Primitive] = []
    slats = rng.integers(1, 5)
    pitch = depth / slats
    parts += [
        Box((0, height, -depth / 2 + (i + 0.5) * pitch), (width, board, pitch * (0.75 if slats > 1 else 1)))
        for i in range(slats)
    ]
    place = width * rng.uniform(0.32, 0.46)
    if rng.random() < 0.5:
        for sx, sz in SIGNS:
            parts.append(Box((sx * place, height / 2, sz * (depth / 2 - leg)), (leg, height, leg)))
        parts += [Box((sx * place, height - board, 0), (leg, board * 1.2, depth * 0.95)) for sx in (-1, 1)]
    else:
        parts += [Box((sx * place, height / 2, 0), (leg * 1.3, height, depth * 0.9)) for sx in (-1, 1)]
    if rng.random() < 0.6:  # a back
        top, lean = height + rng.uniform(0.25, 0.4), rng.uniform(0.0, 0.1)
        rear = -depth / 2 + leg / 2
        for sx in (-1, 1):
            parts.append(
                taper((sx * place, height - board, rear), (sx * place, top, rear - lean), (leg, leg), (leg, leg * 0.8))
            )
        for y in np.linspace(height + 0.12, top - 0.04, rng.integers(1, 4)):
            z = rear - lean * (y - height) / (top - height)
            parts.append(Box((0, y, z), (width, rng.uniform(0.05, 0.09), leg * 0.7)))
    return parts, []


def airplane(rng: np.random.Generator) -> Parts:
    length, radius = rng.uniform(0.8, 1.0), rng.uniform(0.05, 0.075)
    span, chord, sweep = rng.uniform(0.34, 0.52), rng.uniform(0.14, 0.24), rng.uniform(0.0, 0.24)
    tip, thick, rise = rng.uniform(0.3, 0.7), rng.uniform(0.02, 0.032), rng.uniform(-0.02, 0.06)
    nose, tail = length / 2, -length / 2
    parts: list[Primitive] = [
        Frustum((0, 0, nose - 0.14), (0, 0, tail + 0.26), radius, radius),
        Ellipsoid((0, 0, nose - 0.14), (radius, radius, 0.14)),
        Frustum((0, 0, tail + 0.26), (0, radius * 0.4, tail), radius, radius * 0.3),
    ]
    at, low = rng.uniform(-0.05, 0.1), rng.uniform(-0.6, 0.6) * radius

    def wing(z, y, reach, chord, sweep, rise, thick):
        return [
            Hull(
                tuple(
                    (sx * x, y + dy + lift, z - back + dz * c)
                    for x, c, back, lift, t in (
                        (0.0, chord, 0.0, 0.0, thick),
                        (reach, chord * tip, sweep, rise, thick * 0.6),
                    )
                    for dz, dy in ((0.5, 0.0), (0.0, t / 2), (0.0, -t / 2), (-0.5, 0.0))
                )
            )
            for sx in (-1, 1)
        ]

    parts += wing(at, low, span, chord, sweep, rise, thick * 1.6)
    small = span * rng.uniform(0.35, 0.45)
    height = rng.uniform(0.12, 0.2)
    high_tail = rng.random() < 0.3
    parts += wing(
        tail + 0.07, height if high_tail else radius * 0.5, small, chord * 0.55, sweep * 0.4, 0.01, thick * 1.4
    )
    back = rng.uniform(0.03, 0.08)
    parts.append(
        Hull(
            tuple(
                (dx, y, z)
                for y, z0, z1, t in (
                    (0.0, tail + 0.02, tail + 0.18, thick),
                    (height + 0.02, tail - back, tail + 0.08, thick * 0.8),
                )
                for z in (z0, z1)
                for dx in (-t / 2, t / 2)
            )
        )
    )
    for place in np.linspace(0.3, 0.6, 2)[: rng.integers(0, 3)]:  # engines under the wings
        for sx in (-1, 1):
            y, z = low + rise * place - radius * 0.55, at - sweep * place
            parts.append(Frustum((sx * span * place, y, z + 0.1), (sx * span * place, y, z - 0.06), 0.034, 0.026))
    return parts, []


def mug(rng: np.random.Generator) -> Parts:
    height, radius = rng.uniform(0.55, 0.9), rng.uniform(0.27, 0.38)
    flare, wall = rng.uniform(0.8, 1.1), rng.uniform(0.04, 0.06)
    ring, tube = height * rng.uniform(0.26, 0.34), rng.uniform(0.035, 0.055)
    bottom = radius * flare
    cup = Revolution((0, 0, 0), ((0, 0, bottom), (height, 0, radius)))
    inside = Revolution((0, 0, 0), ((wall * 1.3, 0, bottom - wall), (height + 0.01, 0, radius - wall)))
    side = (bottom + radius) / 2 - wall / 2
    handle = Torus((side, height * rng.uniform(0.45, 0.55), 0), (0, 0, 1), ring, tube)
    return [cup, handle], [inside]


def bottle(rng: np.random.Generator) -> Parts:
    radius, neck = rng.uniform(0.12, 0.24), rng.uniform(0.04, 0.07)
    body, shoulder, top = rng.uniform(0.4, 0.6), rng.uniform(0.06, 0.18), rng.uniform(0.14, 0.3)
    waist = rng.uniform(0.75, 1.0)
    rise = np.linspace(0, 1, 8)
    curve = [(body + t * shoulder, neck + (radius - neck) * (1 - t**2) ** 0.5) for t in rise]
    outline = [(0, radius * 0.92), (0.03, radius), (body * 0.5, radius * waist), *curve, (body + shoulder + top, neck)]
    parts: list[Primitive] = [Revolution((0, 0, 0), tuple((y, 0, r) for y, r in outline))]
    end = body + shoulder + top
    if rng.random() < 0.6:  # a cap
        parts.append(Frustum((0, end - 0.08, 0), (0, end + 0.02, 0), neck * 1.35, neck * 1.35))
    if rng.random() < 0.3:  # a jug's handle
        at = body + shoulder * 0.6
        parts.append(Torus((neck + 0.06, at + 0.04, 0), (0, 0, 1), 0.12, 0.026))
    return parts, []


def car(rng: np.random.Generator) -> Parts:
    length, width = rng.uniform(0.9, 1.0), rng.uniform(0.36, 0.46)
    wheel, floor = rng.uniform(0.085, 0.11), rng.uniform(0.06, 0.09)
    belt, roof = rng.uniform(0.2, 0.26), rng.uniform(0.32, 0.42)
    front, rear = length / 2, -length / 2
    hood = belt - rng.uniform(0.0, 0.05)
    body = Hull(
        tuple(
            (sx * width / 2 * k, y, z)
            for y, z, k in (
                (floor, front, 0.92), (hood * 0.8, front, 0.92), (hood, front - 0.05, 1.0),
                (floor, rear, 0.92), (belt, rear, 0.95), (floor, 0.0, 1.0), (belt, 0.0, 1.0),
            )
            for sx in (-1, 1)
        )
    )  # fmt: skip
    style = rng.integers(3)  # saloon, estate, pick-up
    start = front - rng.uniform(0.22, 0.32) * length
    stop = rear + (0.16 * length, 0.02, 0.45 * length)[style]
    slant = (0.1, 0.03, 0.03)[style]
    cabin = Hull(
        tuple(
            (sx * width / 2 * k, y, z)
            for y, z, k in (
                (belt - 0.04, start, 0.95), (roof, start - 0.13, 0.78), (roof, stop + slant, 0.78), (belt - 0.04, stop, 0.95),
            )
            for sx in (-1, 1)
        )
    )  # fmt: skip
    axles = (front - rng.uniform(0.16, 0.2), rear + rng.uniform(0.16, 0.2))
    wheels = [
        Frustum((sx * (width / 2 - 0.06), wheel, z), (sx * (width / 2 + 0.012), wheel, z), wheel, wheel)
        for z in axles
        for sx in (-1, 1)
    ]
    bed = [Box((0, belt, (stop + rear) / 2 + 0.005), (width * 0.8, 0.12, stop - rear - 0.05))] if style == 2 else []
    return [body, cabin, *wheels], bed


MAKERS: dict[str, Callable[[np.random.Generator], Parts]] = {
    'airplane': airplane,
    'bench': bench,
    'bottle': bottle,
    'car': car,
    'chair': chair,
    'lamp': lamp,
    'mug': mug,
    'shelf': shelf,
    'sofa': sofa,
    'table': table,
}
FAMILIES = tuple(MAKERS)
