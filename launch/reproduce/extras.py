"""LPIPS and FVD in a reproduction, each only where its file was given: the options of
`trainer.evaluate`, and tables whose figures have cards of their own.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from launch.reproduce.context import Context, Table
from launch.reproduce.footage import FootageSet
from launch.reproduce.over_seeds import seeds_card
from trainer.distances import Wanted, add_weights, extra_scores
from trainer.run import Run


def add_options(parser: argparse.ArgumentParser) -> None:
    """Words that name the files: `--lpips`, `--fvd` and their SHA-256."""
    add_weights(parser)
    parser.set_defaults(frechet=False)  # its own tables have a Frechet distance by VGG16


def digests(wanted: Wanted) -> list[str]:
    """SHA-256 of the files, on which results depend."""
    return [network.sha256 for network in (wanted.lpips, wanted.fvd) if network]


def tables_of(
    context: Context,
    footage: FootageSet,
    run: Run,
    clips: Sequence[int],
    *,
    what: str,
    card: dict[str, str] | None = None,
) -> tuple[Table, ...]:
    """A table for each figure whose file was given, of generated clips against their footage.

    Args:
        context: of the stage.
        footage: which.
        run: of one training.
        clips: of the run, at least two for FVD.
        what: these clips are, in words.
        card: what the cards say besides the protocol of the run's own footage.

    Raises:
        UserError: too few clips.
    """
    found = extra_scores(run, clips, context.wanted, vgg=None, chosen=f"{len(clips)} {what}")
    return tuple(
        Table(
            f"{score.name}, {what}: {footage.name}",
            ("", score.name),
            ((what, f"{score.value:.4f}"),),
            {**score.protocol, **seeds_card(1), **(card or {})},
        )
        for score in found
    )
