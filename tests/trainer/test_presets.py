"""Presets: Tab. 6 of the paper, number by number."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from trainer.config import resolve


class Row(NamedTuple):
    """A line of Tab. 6, in its order."""

    static: int
    transient: int
    lambda_static: float
    lambda_triplet: float
    alpha: int
    generator_rate: float
    motion_rate: float
    latents_rate: float
    steps_generator: int
    steps_latents: int
    levels: int


TABLE_6 = {
    "chair_cad": Row(206, 50, 0.01, 0.01, 2, 6.25e-5, 6.25e-5, 12.5, 5, 300, 4),
    "weizmann": Row(56, 200, 0.01, 0.1, 2, 6.25e-5, 6.25e-3, 12.5, 5, 700, 3),
    "golf": Row(56, 200, 0.01, 0.01, 2, 0.1, 0.1, 12.5, 10, 1000, 4),
}
LAYOUTS = {  # Sec. 4.1
    "chair_cad": ("dataset", "video"),
    "weizmann": ("identity", "action"),
    "golf": ("dataset", "clip"),
}


@pytest.mark.parametrize("name", TABLE_6)
def test_the_papers_presets_are_table_6(name: str) -> None:
    """Every number of the table, momentum SGD on the latents, one whole clip at a time, the
    pyramid, and on Weizmann the generator that is told labels."""
    row, config = TABLE_6[name], resolve([f"preset={name}_paper"])
    assert row == Row(
        config.latents.static,
        config.latents.transient,
        config.loss.lambda_static,
        config.loss.lambda_triplet,
        config.loss.radius,
        config.optim.gamma_rate,
        config.optim.theta_rate,
        config.latents.rate,
        config.schedule.inner_gamma or 0,
        config.schedule.inner_latents or 0,
        config.loss.levels,
    )
    assert (config.latents.optimiser, config.latents.momentum) == ("momentum", 0.9)
    assert (config.schedule.kind, config.schedule.clips, config.schedule.frames) == (
        "alternate", 1, 0,
    )  # fmt: skip
    assert config.loss.regression == "pyramid"
    told = "conditional" if name == "weizmann" else "dcgan"
    assert config.networks.generator == told and config.networks.channels == 64
    assert (config.latents.static_key, config.latents.transient_key) == LAYOUTS[name]


@pytest.mark.parametrize("name", TABLE_6)
def test_tuned_presets_keep_what_the_model_is(name: str) -> None:
    """Widths, weights of the losses, margin, levels and layout of Tab. 6; rates of their own."""
    exact, tuned = (resolve([f"preset={name}{end}"]) for end in ("_paper", ""))
    for part, fields in {
        "latents": ("static", "transient", "static_key", "transient_key"),
        "loss": ("lambda_static", "lambda_triplet", "levels", "radius", "margin"),
    }.items():
        for field in fields:
            one, other = (getattr(getattr(config, part), field) for config in (exact, tuned))
            assert one == other, field
    assert tuned.optim.gamma_rate != exact.optim.gamma_rate
