"""`synthetic`: footage with known factors, appearance x motion, made on the spot.

Every identity is a coloured solid before its own background, every action a path with turns; every
cell of the matrix can be rendered exactly, so a cell held out of training has its ground truth.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data_shards.errors import UserError
from data_shards.footage import Footage, Item, Listing, Source, SourceOptions
from data_shards.sources import meshes
from data_shards.sources.meshes import Pose

PERIOD = 16
"""Frames after which every motion repeats."""

COLOURS = {
    "red": 0.0,
    "teal": 0.48,
    "gold": 0.13,
    "violet": 0.75,
    "green": 0.35,
    "blue": 0.6,
    "pink": 0.9,
    "orange": 0.07,
}
"""Hue of each identity's object, turns. Beyond these, colours are named by degrees: `hue232`."""
DEGREES = {name: round(360 * hue, 1) for name, hue in COLOURS.items()}
"""The same in degrees, rounded: 360 * 0.35 is a little less than 126."""
HUES = [d for d in range(360) if all(abs(d - named) >= 1 for named in DEGREES.values())]
"""Degrees of the colours beyond: 349, none of which looks like one that has a name."""
STRIDE = 223
"""Between one appearance and the next of its shape, in `HUES`; prime to 349, so all come up."""

TAU = 2 * math.pi

MOTIONS: dict[str, Callable[[float], Pose]] = {
    "turn": lambda u: Pose(yaw=TAU * u),
    "orbit": lambda u: Pose(0.2 * math.cos(TAU * u), 0.2 * math.sin(TAU * u), 0.8, 0.5),
    "bounce": lambda u: Pose(0.0, 0.2 - 0.36 * abs(math.sin(TAU * u)), 0.85, 0.6),
    "sway": lambda u: Pose(0.24 * math.sin(TAU * u), 0.0, 0.9, 0.4, 0.6 * math.sin(TAU * u)),
    "tumble": lambda u: Pose(0.2 * math.cos(TAU * u), -0.05, 0.85, 0.3, TAU * u),
    "zoom": lambda u: Pose(scale=1 + 0.45 * math.sin(TAU * u), yaw=0.7),
    "eight": lambda u: Pose(0.24 * math.sin(TAU * u), 0.16 * math.sin(2 * TAU * u), 0.75, 0.5),
    "nod": lambda u: Pose(0.0, 0.12 * math.sin(TAU * u), 1.0, 0.9 * math.sin(2 * TAU * u)),
}
"""Pose at the phase u, of period 1."""


def identities(count: int) -> list[str]:
    """Names of the first appearances, such as `red-disc` and, after 48, `hue232-disc`.

    Raises:
        UserError: more than there are.
    """
    shapes = list(meshes.SHAPES)
    most = len(shapes) * (len(COLOURS) + len(HUES))
    if count > most:
        raise UserError(f"identities: synthetic footage has at most {most:,}, not {count}")
    rounds = [divmod(number, len(shapes)) for number in range(count)]
    return [f"{_colour_name(turn, shape)}-{shapes[shape]}" for turn, shape in rounds]


def _colour_name(turn: int, shape: int) -> str:
    names = list(COLOURS)
    if turn < len(names):
        return names[(shape + turn) % len(names)]
    return f"hue{HUES[(STRIDE * (turn - len(names)) + 60 * shape) % len(HUES)]:03d}"


def _hue_of(colour: str) -> float:
    return COLOURS[colour] if colour in COLOURS else int(colour.removeprefix("hue")) / 360


def _degrees_of(colour: str) -> float:
    return DEGREES[colour] if colour in DEGREES else int(colour.removeprefix("hue"))


def degrees_apart(one: str, other: str) -> float:
    """Degrees of hue between two appearances of one shape, 0 to 180; 180 where shapes differ."""
    (colour, shape), (second, other_shape) = one.split("-"), other.split("-")
    if shape != other_shape:
        return 180.0
    apart = abs(_degrees_of(colour) - _degrees_of(second))
    return min(apart, 360 - apart)


def actions(count: int) -> list[str]:
    """Names of the first motions; at most 8."""
    if count > len(MOTIONS):
        raise UserError(f"actions: synthetic footage has at most {len(MOTIONS)}, not {count}")
    return list(MOTIONS)[:count]


def held_out(options: SourceOptions) -> tuple[tuple[str, str], ...]:
    """Cells (identity, action) kept from training by default: a sixth of the matrix, diagonally.

    Every identity and every action is still seen; there are none in a matrix without room for that.
    """
    rows, columns = options.identities, options.actions
    if min(rows, columns) < 2:
        return ()
    names, motions = identities(rows), actions(columns)
    long, short = max(rows, columns), min(rows, columns)
    turns = [divmod(k, long) for k in range(max(1, rows * columns // 6))]
    pairs = [(place, (place + turn) % short) for turn, place in turns]
    if rows < columns:
        pairs = [(row, column) for column, row in pairs]
    return tuple((names[row], motions[column]) for row, column in pairs)


def render(identity: str, action: str, *, frames: int, size: int = 64) -> Iterator[np.ndarray]:
    """Frames of one cell, each uint8 (size, size, 3); the same pixels for the same arguments."""
    colour, shape = identity.split("-")
    hue = _hue_of(colour)
    faces = meshes.SHAPES[shape]()
    tones = (_colour(hue, 0.75, 0.95), _colour(hue + 0.09, 0.65, 0.75))
    room = _room(hue, size * meshes.SUPERSAMPLING)
    for index in range(frames):
        pose = MOTIONS[action]((index % PERIOD) / PERIOD)
        canvas = room.copy()
        _shadow(canvas, pose, hue)
        meshes.draw(canvas, faces, pose, colours=tones)
        yield np.asarray(canvas.resize((size, size), Image.Resampling.BOX))


def _room(hue: float, size: int) -> Image.Image:
    shade = np.linspace(0, 1, size)[:, None]
    wall = _colour(hue + 0.5, 0.22, 0.98) * (1 - shade) + _colour(hue + 0.5, 0.3, 0.78) * shade
    floor = _colour(hue + 0.45, 0.35, 0.6) * np.ones((size, 1))
    rows = np.where(np.arange(size)[:, None] < 0.72 * size, wall, floor)
    pixels = np.broadcast_to(rows[:, None], (size, size, 3))
    return Image.fromarray(np.ascontiguousarray(np.rint(pixels).astype(np.uint8)))


def _shadow(canvas: Image.Image, pose: Pose, hue: float) -> None:
    size = canvas.width
    height = max(0.0, 0.3 - pose.y)
    half_w, half_h = 0.2 * pose.scale * (1 - 0.6 * height), 0.045 * pose.scale
    x, y = 0.5 + pose.x, 0.84
    box = [size * v for v in (x - half_w, y - half_h, x + half_w, y + half_h)]
    colour = tuple(int(v) for v in _colour(hue + 0.45, 0.4, 0.42))
    ImageDraw.Draw(canvas).ellipse(box, fill=colour)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _listing(root: Path, options: SourceOptions) -> Listing:
    names = [
        Item(f"{identity}/{action}")
        for identity in identities(options.identities)
        for action in actions(options.actions)
    ]
    return Listing(names, "", len(names))


def _read(item: Item, root: Path, options: SourceOptions) -> Footage:
    identity, action = item.name.split("/")
    frames = render(identity, action, frames=options.length, size=options.size)
    return Footage(frames, options.length)


SOURCE = Source(
    listing=_listing,
    read=_read,
    labels=r"(?P<identity>[^/]+)/(?P<action>[^/]+)",
    labelled=True,
    about="footage with known factors, made on the spot: solids on moving paths",
    rooted=False,
)
