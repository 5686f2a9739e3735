"""Every footage format by its name: adding one is adding a row here."""

from __future__ import annotations

from data_shards.footage import Source
from data_shards.sources import chair_cad, folder, frames, golf, strips, synthetic, weizmann

SOURCES: dict[str, Source] = {
    "strips": strips.SOURCE,
    "frames": frames.SOURCE,
    "chair_cad": chair_cad.SOURCE,
    "weizmann": weizmann.SOURCE,
    "golf": golf.SOURCE,
    "folder": folder.SOURCE,
    "synthetic": synthetic.SOURCE,
}
