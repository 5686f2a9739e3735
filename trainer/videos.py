"""Video files as a prepared set that is cut as a run's footage is: videos that are new to it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_shards.errors import UserError
from data_shards.frames import SUFFIXES
from data_shards.manifest import MANIFEST
from data_shards.options import Options
from data_shards.prepare import FACTS, prepare
from data_shards.summary import read_rejects
from trainer.fitted import FOLDER
from trainer.run import Run


def is_video(where: str) -> bool:
    """Whether a word of a command line names a video file and not a prepared set."""
    return where.lower().endswith(SUFFIXES)


def prepare_videos(run: Run, files: Sequence[str], *, name: str) -> Path:
    """Prepare video files into RUN/fitted/NAME-footage, in place of those of an earlier call.

    Clips have the run's frames, stride and size; another aspect is cut as the run's footage was
    where its folder is at hand, and to the centre otherwise. Files that cannot be used are told.

    Raises:
        UserError: a file that is not there, two of one name, none that can be used.
    """
    twice = [stem for stem, count in Counter(Path(f).stem for f in files).items() if count > 1]
    if twice:
        raise UserError(f"{twice[0]}: two videos have this name; rename one of them")
    facts, out = run.manifest, run.folder / FOLDER / f"{name}-footage"
    out.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".videos-", dir=out.parent) as part:
        staged, fresh = Path(part) / "videos", Path(part) / "set"
        staged.mkdir()
        for file in files:
            _stage(Path(file), staged)
        options = Options(
            source="folder", root=str(staged), name=name, frames=facts.frames, stride=facts.stride,
            height=facts.height, width=facts.width, labels="none", **_cut(run),
        )  # fmt: skip
        try:
            prepare(options, out=fresh)
        except UserError as error:  # not of a folder that will be gone
            raise UserError(str(error).replace(f"{staged}: ", "")) from None
        if out.exists():
            shutil.rmtree(out)
        fresh.rename(out)
    for video, reason in read_rejects(out):
        print(f"{video}: left out: {reason}", file=sys.stderr)
    return out


def _stage(file: Path, folder: Path) -> None:
    """Put a file among those that are prepared, without a second copy where there can be one."""
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    source, place = file.resolve(), folder / file.name
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


def _cut(run: Run) -> dict[str, Any]:
    """How the run's own footage was cut, if its folder tells."""
    folder = run.config.data.manifest.removesuffix(MANIFEST)
    try:
        facts = json.loads((Path(folder) / FACTS).read_text())
        return {"crop": int(facts["crop"]), "fit": str(facts["fit"])}
    except (OSError, ValueError, KeyError, TypeError):
        told = f"{folder}: does not tell ({FACTS}) how the run's footage was cut"
        print(f"{told}; another aspect is cut to the centre", file=sys.stderr)
        return {}
