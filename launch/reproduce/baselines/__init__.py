"""Compact MoCoGAN and VGAN, written from their papers, for Tab. 2; nothing else imports them.

Both are as wide as ours: within a timed budget about half as wide as published, so that a processor
trains them in the time that ours gets. Widths are settings of the constructors.
"""

from __future__ import annotations

from collections.abc import Callable

from launch.reproduce.baselines.game import Game
from launch.reproduce.baselines.mocogan import mocogan
from launch.reproduce.baselines.vgan import vgan

BASELINES: dict[str, Callable[..., Game]] = {"MoCoGAN": mocogan, "VGAN": vgan}
