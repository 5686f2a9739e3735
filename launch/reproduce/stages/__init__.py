"""The stages of `launch.reproduce`, in their order; a stage is a row of this table."""

from __future__ import annotations

from launch.reproduce.context import Stage
from launch.reproduce.stages import (
    ablation,
    adversarial,
    compact,
    exchange,
    interpolation,
    presets,
    random_latents,
    sheets,
    unseen,
)

STAGES: dict[str, Stage] = {
    "ablation": ablation.STAGE,
    "adversarial": adversarial.STAGE,
    "random_latents": random_latents.STAGE,
    "exchange": exchange.STAGE,
    "interpolation": interpolation.STAGE,
    "unseen": unseen.STAGE,
    "presets": presets.STAGE,
    "compact": compact.STAGE,
    "sheets": sheets.STAGE,
}
