"""A figure with its protocol card: figures with different cards must not be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from data_shards.manifest import Manifest
    from trainer.run import Run
    from trainer.vgg import Vgg

PSNR = "mean over videos of 10 log10(255^2 / MSE), MSE over all pixels of a video, 8 bits"
SSIM = "mean over videos and frames, scikit-image, window 7, colour, range 255"
FCS = "mean over videos of the mean SSIM of all frames with the first one (Sec. 4.2)"
INPUT = "RGB 0..255 less its mean (123.68, 116.779, 103.939), as IMAGENET1K_FEATURES wants it"
"""Of VGG16 in MCS and the Frechet distances; `trainer.vgg.MEAN_RGB`."""
MCS = "log10 of the squared distance of mean consecutive feature differences (Sec. 4.2)"


class Score(NamedTuple):
    """One figure, how to read it, and its protocol card."""

    name: str
    value: float
    unit: str
    better: str
    bound: float | None
    distance: float | None
    protocol: dict[str, str]


def protocol(run: Run, *, videos: str, definition: str, **more: str) -> dict[str, str]:
    """The card of a figure: whatever must be equal before two figures are compared."""
    facts = run.manifest
    return {
        "definition": definition,
        "videos": videos,
        "clips": "the first of each video",
        "frames": f"{facts.frames}, stride {facts.stride}",
        "size": f"{facts.width} x {facts.height}",
        **footage_card(facts),
        **more,
    }


def footage_card(facts: Manifest) -> dict[str, str]:
    """What a card says of the footage that figures are about."""
    return {"footage": f"{facts.name}, {facts.fingerprint[:12]}"}


def network(vgg: Vgg) -> dict[str, str]:
    """What a card says of the feature network."""
    return {"features": "VGG16 relu3_3", "input": INPUT, "weights SHA-256": vgg.sha256}
