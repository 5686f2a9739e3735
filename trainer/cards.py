"""A figure with its protocol card: figures with different cards must not be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_shards.errors import UserError

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
PREPARED = "prepare.json"
"""Beside a prepared set: the options of its preparation."""
CELLS = "held-out cells"
"""What an evaluation calls combinations that were not trained on, where it leaves them out."""
FITS = {"crop": "the largest centred part of that shape", "stretch": "squeezed into that shape"}
"""How frames of another shape got theirs, by `--fit` of `data_shards.prepare`."""


UNKNOWN = "not known"


class DifferentCardsError(UserError):
    """Figures of different cards were about to be compared."""


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
        **footage_card(facts, run.config.data.manifest),
        **more,
    }


def resize_card(where: str) -> dict[str, str]:
    """What a card says of how frames got their size: from the options of the preparation, where
    they lie beside the manifest on this machine.

    Args:
        where: the set's folder or manifest.
    """
    folder = Path(where) if Path(where).is_dir() else Path(where).parent
    try:
        facts = json.loads((folder / PREPARED).read_text())
        crop, fit = int(facts["crop"]), FITS[facts["fit"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {"crop": UNKNOWN, "resize": UNKNOWN}
    first = f"a centred square of {crop} pixels" if crop else "none"
    return {"crop": first, "resize": f"{fit}, then bicubic with antialiasing"}


def shared(several: Sequence[dict[str, str]]) -> dict[str, str]:
    """The card of several figures that are averaged, or held against each other.

    Raises:
        DifferentCardsError: they do not all have the same one.
    """
    first = several[0]
    for other in several[1:]:
        apart = sorted(k for k in first.keys() | other.keys() if first.get(k) != other.get(k))
        if apart:
            one, two = (f"{card.get(apart[0], 'not given')!r}" for card in (first, other))
            raise DifferentCardsError(
                f"figures of different protocol cards cannot be compared: {apart[0]} is {one} and "
                f"{two}" + (f"; so differ {', '.join(apart[1:])}" if apart[1:] else "")
            )
    return first


def footage_card(facts: Manifest, where: str) -> dict[str, str]:
    """What a card says of the footage that figures are about; `where`: its folder or manifest."""
    return {**resize_card(where), "footage": f"{facts.name}, {facts.fingerprint[:12]}"}


def network(vgg: Vgg) -> dict[str, str]:
    """What a card says of the feature network."""
    return {"features": "VGG16 relu3_3", "input": INPUT, "weights SHA-256": vgg.sha256}
