"""Presets: deltas over the defaults, one row each. Words on the command line win over them.

`*_paper` rows are Tab. 6 to the letter (rates included) with the schedule of Sec. 3.1; the rows
without it keep Tab. 6's dimensions, weights, margin and levels and train with the `fast` schedule
and the rates of the defaults. docs/training.md says what each difference is worth.
"""

from __future__ import annotations

from typing import Any


def _tab6(
    *,
    dims: tuple[int, int],
    lambdas: tuple[float, float],
    levels: int,
    layout: tuple[str, str],
) -> dict[str, Any]:
    """The columns of Tab. 6 that say what the model is. alpha = 2 is the default of every row."""
    return {
        "latents": {
            "static": dims[0],
            "transient": dims[1],
            "static_key": layout[0],
            "transient_key": layout[1],
        },
        "loss": {"lambda_static": lambdas[0], "lambda_triplet": lambdas[1], "levels": levels},
    }


def _paper(base: dict[str, Any], *, rates: tuple[float, float], inner: tuple[int, int]) -> dict:
    """The columns of Tab. 6 that say how it is trained: momentum SGD, one video at a time."""
    return {
        "latents": {**base["latents"], "optimiser": "momentum", "rate": 12.5, "momentum": 0.9},
        "begin": {"latents": "random"},
        "loss": {**base["loss"], "regression": "pyramid"},
        "networks": {"norm": "batch", "output": "tanh", "init": "dcgan"},
        "optim": {
            "gamma_rate": rates[0],
            "theta_rate": rates[1],
            "beta2": 0.999,
            "curve": "constant",
            "warmup": 0.0,
        },
        "train": {"average": 0.0},
        "schedule": {
            "kind": "alternate",
            "inner_gamma": inner[0],
            "inner_latents": inner[1],
            "clips": 1,
            "frames": 0,
        },
    }


def _conditional(base: dict[str, Any]) -> dict[str, Any]:
    """With the generator that is told identity and action, the paper's for Weizmann (Sec. 4.2)."""
    return {**base, "networks": {**base.get("networks", {}), "generator": "conditional"}}


CHAIR_CAD = _tab6(dims=(206, 50), lambdas=(0.01, 0.01), levels=4, layout=("dataset", "video"))
WEIZMANN = _tab6(dims=(56, 200), lambdas=(0.01, 0.1), levels=3, layout=("identity", "action"))
GOLF = _tab6(dims=(56, 200), lambdas=(0.01, 0.01), levels=4, layout=("dataset", "clip"))
OWN = _tab6(dims=(56, 200), lambdas=(0.01, 0.01), levels=4, layout=("video", "video"))

PRESETS: dict[str, dict[str, Any]] = {
    "folder": OWN,
    "demo": {
        **_tab6(dims=(32, 64), lambdas=(0.01, 0.01), levels=4, layout=("identity", "action")),
        "train": {"minutes": 2.5, "sample_minutes": 0.5},
    },
    "weizmann": WEIZMANN,
    "chair_cad": CHAIR_CAD,
    "golf": {**GOLF, "begin": {"latents": "random"}},
    "weizmann_paper": _conditional(_paper(WEIZMANN, rates=(6.25e-5, 6.25e-3), inner=(5, 700))),
    "chair_cad_paper": _paper(CHAIR_CAD, rates=(6.25e-5, 6.25e-5), inner=(5, 300)),
    "golf_paper": _paper(GOLF, rates=(0.1, 0.1), inner=(10, 1000)),
}
