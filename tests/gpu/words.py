"""Settings that the tests of this folder train with, by name; resolved on CPUs as well."""

from __future__ import annotations

PAPER = (
    "preset=golf", "schedule.clips=6", "latents.static_key=identity", "networks.norm=batch",
    "networks.channels=8", "networks.hidden=12",
)  # fmt: skip
GENTLE = ("optim.gamma_rate=1e-3", "optim.epsilon=1e-4")
"""Adam's first steps follow the sign of a gradient, also where it is all rounding; not so here."""
TOLD = ("latents.static_key=identity", "latents.transient_key=action",
        "networks.generator=conditional")  # fmt: skip
ALTERNATE = ("schedule.kind=alternate", "schedule.inner_gamma=3", "schedule.inner_latents=4")

STEPS: dict[str, tuple[str, ...]] = {
    "folder": (),
    "one frame": ("schedule.frames=1", "schedule.clips=8"),
    "paper": PAPER,
    "alternate": ALTERNATE,
    "low rank": ("latents.low_rank.rank=4", "latents.low_rank.scope=dictionary"),
    "told": TOLD,
}
"""What a GPU must do as a CPU does."""
PRECISIONS: dict[str, tuple[tuple[str, ...], float]] = {
    "tf32": (("train.precision=tf32",), 0.01),
    "bf16": (("train.precision=bf16",), 0.05),
    "compiled": (("networks.compile=inductor",), 0.01),
    "bf16 compiled": (("train.precision=bf16", "networks.compile=inductor"), 0.05),
    "graphs": (("networks.compile=graphs",), 0.01),
    "bf16 graphs": (("train.precision=bf16", "networks.compile=graphs"), 0.05),
}
"""Other ways to compute, and how far the loss may be from that of float32, relatively."""
NODES: dict[str, tuple[str, ...]] = {
    "folder": (),
    "paper": PAPER,
    "host rows": ("latents.replicate_kib=0", "latents.residence=host"),
    "alternate": ALTERNATE,
    "told": TOLD,
}
"""What two nodes must do as one process does."""
