"""Small solids for the synthetic footage: flat-shaded polygons, turned, projected, antialiased.

Coordinates: x right, y down, z towards the viewer; an object fits into the ball of radius 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 4
_LIGHT = np.array([-0.4, -0.7, 0.6]) / np.linalg.norm([-0.4, -0.7, 0.6])
_CAMERA_TILT = 0.35


class Face(NamedTuple):
    """A planar polygon."""

    corners: np.ndarray
    """(K, 3), counter-clockwise as seen from outside."""
    tone: int
    """0: the object's first colour, 1: its second."""


class Pose(NamedTuple):
    """Where an object is in one frame."""

    x: float = 0.0
    """Of the centre, in frame widths from the middle."""
    y: float = 0.0
    scale: float = 1.0
    yaw: float = 0.0
    """About the vertical axis, radians."""
    roll: float = 0.0
    """In the picture's plane, radians."""


def _prism(outline: np.ndarray, depth: float) -> list[Face]:
    front = np.column_stack([outline, np.full(len(outline), depth)])
    back = np.column_stack([outline, np.full(len(outline), -depth)])
    sides = [
        Face(np.array([front[i - 1], back[i - 1], back[i], front[i]]), 1)
        for i in range(len(outline))
    ]
    return [*sides, Face(back[::-1], 1), Face(front, 0)]


def _regular(corners: int, *, inner: float = 1.0, turn: float = 0.0) -> np.ndarray:
    count = corners if inner == 1 else 2 * corners
    angles = turn - np.pi / 2 - 2 * np.pi * np.arange(count) / count
    radii = np.where(np.arange(count) % 2, inner, 1.0) * 0.85
    return np.column_stack([radii * np.cos(angles), radii * np.sin(angles)])


def _box(low: tuple[float, ...], high: tuple[float, ...], tone: int = 0) -> list[Face]:
    (left, top, back), (right, bottom, front) = low, high
    outline = np.array([[left, top], [left, bottom], [right, bottom], [right, top]])
    middle, depth = (front + back) / 2, (front - back) / 2
    shift = np.array([0, 0, middle])
    return [Face(face.corners + shift, tone) for face in _prism(outline, depth)]


def _chair() -> list[Face]:
    legs = [
        _box((x - 0.09, 0.1, z - 0.09), (x + 0.09, 0.9, z + 0.09), 1)
        for x in (-0.45, 0.45)
        for z in (-0.45, 0.45)
    ]
    seat = _box((-0.55, 0.0, -0.55), (0.55, 0.16, 0.55))
    back = _box((-0.55, -0.9, -0.55), (0.55, 0.0, -0.4), 0)
    return [face for part in (*legs, seat, back) for face in part]


def _cross() -> list[Face]:
    arm, end = 0.28, 0.85
    quarter = np.array([[-arm, -end], [-arm, -arm], [-end, -arm]])
    turns = [np.array([[0, 1], [-1, 0]]), np.eye(2)]
    outline, corner = [], turns[1]
    for _ in range(4):
        outline.extend(quarter @ corner)
        corner = corner @ turns[0]
    ordered = sorted(outline, key=lambda p: -math.atan2(p[1], p[0]))
    return _prism(np.array(ordered), 0.3)


SHAPES: dict[str, Callable[[], list[Face]]] = {
    "disc": lambda: _prism(_regular(24), 0.25),
    "chair": _chair,
    "star": lambda: _prism(_regular(5, inner=0.45), 0.25),
    "cube": lambda: _box((-0.6, -0.6, -0.6), (0.6, 0.6, 0.6)),
    "wedge": lambda: _prism(_regular(3), 0.35),
    "cross": _cross,
}


def draw(
    canvas: Image.Image, faces: list[Face], pose: Pose, *, colours: tuple[np.ndarray, np.ndarray]
) -> None:
    """Draw a solid's lit faces, the far ones first, onto a supersampled canvas."""
    size = canvas.width
    radius = 0.27 * size * pose.scale
    centre = size * np.array([0.5 + pose.x, 0.5 + pose.y])
    turn = _rotation(pose)
    pen = ImageDraw.Draw(canvas)
    placed = [Face(face.corners @ turn.T, face.tone) for face in faces]
    for corners, tone in sorted(placed, key=lambda face: float(face.corners[:, 2].mean())):
        normal = -np.cross(corners[1] - corners[0], corners[2] - corners[1])
        length = float(np.linalg.norm(normal))
        if length == 0 or _facing(corners) <= 0:
            continue
        light = 0.65 + 0.4 * max(0.0, float(normal @ _LIGHT) / length)
        points = centre + radius * corners[:, :2]
        pen.polygon([tuple(p) for p in points], fill=_rgb(colours[tone] * light))


def _facing(corners: np.ndarray) -> float:
    x, y = corners[:, 0], corners[:, 1]
    return -float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def _rotation(pose: Pose) -> np.ndarray:
    yaw, roll, tilt = pose.yaw, pose.roll, _CAMERA_TILT
    about_y = np.array(
        [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    )
    about_z = np.array(
        [[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]]
    )
    about_x = np.array(
        [[1, 0, 0], [0, math.cos(tilt), math.sin(tilt)], [0, -math.sin(tilt), math.cos(tilt)]]
    )
    return about_x @ about_z @ about_y


def _rgb(colour: np.ndarray) -> tuple[int, ...]:
    return tuple(int(value) for value in np.clip(np.rint(colour), 0, 255))
