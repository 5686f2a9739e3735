"""Building a run's parts from config and footage, alike for training, reading and fitting."""

from __future__ import annotations

from typing import Any

import torch

from data_shards.errors import UserError
from data_shards.keys import row_keys
from data_shards.manifest import Manifest
from data_shards.memory import decoded_bytes
from data_shards.stream import OpenManifest
from trainer.comm import Comm
from trainer.config import Config
from trainer.draws import generator_of
from trainer.latents import LatentDictionary
from trainer.networks import NavSynth, RowLabels
from trainer.networks.generator import WIDTHS
from trainer.schedule import pace


def require_size(manifest: Manifest) -> None:
    """Refuse frames that no generator makes (UserError)."""
    if manifest.height != manifest.width or manifest.height not in WIDTHS:
        raise UserError(
            f"data.manifest: frames of {manifest.height}x{manifest.width}; generators exist for "
            f"{', '.join(f'{s}x{s}' for s in WIDTHS)}: prepare the footage with --size"
        )


def require_memory(config: Config, opened: OpenManifest) -> None:
    """Refuse footage that latents begin at and that does not fit in memory (UserError)."""
    if config.begin.latents != "footage" or decoded_bytes(opened) <= config.data.cache_mib << 20:
        return
    raise UserError(
        f"begin.latents: footage needs {opened.manifest.name} in memory, "
        f"{decoded_bytes(opened) >> 20} MiB, and data.cache_mib is {config.data.cache_mib}; "
        "raise it or set begin.latents=random"
    )


def require_labels(config: Config, opened: OpenManifest) -> None:
    """Refuse footage without the labels that the layout or the generator needs (UserError)."""
    labels_of(config, opened.manifest)
    for kind in (config.latents.static_key, config.latents.transient_key):
        row_keys(opened.manifest, opened.table, kind)


def without_clips(config: Config, ranks: int) -> str:
    """One line where some of `ranks` processes get no clip of a step, which they then only wait
    for; empty where each has one."""
    clips = pace(config.schedule).clips
    if ranks <= clips:
        return ""
    return (
        f"{ranks - clips} of {ranks} processes get no clip: schedule.clips is {clips}; set "
        f"schedule.clips={ranks} or more, or start fewer"
    )


def labels_of(config: Config, manifest: Manifest) -> RowLabels | None:
    """Labels of the dictionary's rows where the generator is told them; None where it is not.

    Raises:
        UserError: neither rows of the one table nor of the other have a label.
    """
    if config.networks.generator != "conditional":
        return None
    layout, videos = config.latents, manifest.videos
    found = []
    for key, kind, column in (
        (layout.static_key, "identity", 1), (layout.transient_key, "action", 2),
    ):  # fmt: skip
        by_row = {kind: range(manifest.rows(kind)), "video": [video[column] for video in videos]}
        found.append(torch.tensor(by_row.get(key, [-1] * manifest.rows(key)), dtype=torch.int64))
    if all(bool((labels < 0).all()) for labels in found):
        raise UserError(
            "networks.generator: conditional needs labels, of static rows by identity or video, or "
            "of transient rows by action or video; set networks.generator=dcgan, or the layout"
        )
    classes = max(1, len(manifest.identities)), max(1, len(manifest.actions))
    return RowLabels(found[0], found[1], classes)


def build_networks(config: Config, manifest: Manifest) -> NavSynth:
    """Freshly initialised networks; weights depend on the seed and nothing else.

    Raises:
        UserError: frames that are not square or of a size that no generator has.
    """
    require_size(manifest)
    seed = int(torch.randint(2**62, (), generator=generator_of(config.seed, 0, "networks")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NavSynth(
            config.networks,
            static=config.latents.static,
            transient=config.latents.transient,
            size=manifest.height,
            labels=labels_of(config, manifest),
        )


def build_dictionary(
    config: Config, manifest: Manifest, clips: Any, *, comm: Comm
) -> LatentDictionary:
    """The latent dictionary of the config's layout, rows initialised from the seed.

    Args:
        clips: the manifest's clip records.
    """
    keys = {
        "static": row_keys(manifest, clips, config.latents.static_key),
        "transient": row_keys(manifest, clips, config.latents.transient_key),
    }
    return LatentDictionary(
        config.latents, frames=manifest.frames, keys=keys, comm=comm,
        clips=pace(config.schedule).clips, seed=config.seed,
    )  # fmt: skip
