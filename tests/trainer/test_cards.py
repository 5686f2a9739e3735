"""Protocol cards: how frames got their size is on them, and different ones are never compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_shards.manifest import MANIFEST, read_manifest
from data_shards.options import Options
from data_shards.prepare import FACTS, prepare
from tests.support import raw_footage as raw
from tests.support.outputs import TinyRun
from trainer import cards


def protocol(tmp_path: Path, name: str, **words) -> dict[str, str]:
    """The card of a figure on two strips, prepared so."""
    out = tmp_path / name
    if not out.exists():
        root = raw.strips(tmp_path / "strips", people=2, actions=1)
        prepare(Options("strips", str(root), "set", 4, height=16, width=16, **words), out=out)
    run = TinyRun(tmp_path, read_manifest(out))
    run.config.data.manifest = str(out / MANIFEST)
    return cards.protocol(run, videos="2", definition=cards.PSNR)  # pyright: ignore


def test_a_card_says_how_frames_got_their_size(tmp_path: Path) -> None:
    """Crop and fit out of prepare.json, whether the folder or the manifest is named; without that
    file, or on another machine, they are not known."""
    card = protocol(tmp_path, "plain")
    assert (card["size"], card["frames"], card["videos"]) == ("16 x 16", "4, stride 1", "2")
    assert card["crop"] == "none" and card["resize"].startswith("the largest centred part")
    card = protocol(tmp_path, "cut", crop=20, fit="stretch")
    assert card["crop"] == "a centred square of 20 pixels"
    assert card["resize"].startswith("squeezed into that shape")
    assert cards.resize_card(str(tmp_path / "cut")).items() <= card.items()
    unknown = {"crop": "not known", "resize": "not known"}
    assert cards.resize_card("s3://bucket/set/manifest.json") == unknown
    (tmp_path / "cut" / FACTS).write_text("{")
    assert cards.resize_card(str(tmp_path / "cut")) == unknown


def test_different_cards_are_never_compared(tmp_path: Path) -> None:
    """Equal cards give one; a figure of another crop, or of another feature network, is refused
    with what differs, wherever it stands."""
    plain, cut = protocol(tmp_path, "plain"), protocol(tmp_path, "cut", crop=20)
    assert cards.shared([plain, dict(plain)]) == plain
    with pytest.raises(cards.DifferentCardsError) as caught:
        cards.shared([plain, plain, cut])
    assert str(caught.value) == (
        "figures of different protocol cards cannot be compared: crop is 'none' and 'a centred "
        "square of 20 pixels'; so differ footage"
    )
    seen = {**plain, "weights SHA-256": "a"}
    for other, told in ((plain, "'not given'"), ({**plain, "weights SHA-256": "b"}, "'b'")):
        with pytest.raises(cards.DifferentCardsError, match=f"weights SHA-256 is 'a' and {told}$"):
            cards.shared([seen, other])
