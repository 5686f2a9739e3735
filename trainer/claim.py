"""What a life of a run does once nothing can be wrong with its settings any more: it claims the run
folder, and begins to speak."""

from __future__ import annotations

import sys
from pathlib import Path

from data_shards.stream import OpenManifest
from trainer import lives
from trainer.commit import read_json, replace_durable
from trainer.config import Config
from trainer.engine import Engine
from trainer.leaving import RUN_FILE
from trainer.loop import Progress, length, share
from trainer.parallel import Ranks
from trainer.run import CONFIG
from trainer.settings import to_dict, to_yaml
from trainer.telemetry import Telemetry


def claim(config: Config, opened: OpenManifest, folder: Path, engine: Engine) -> str:
    """Write config, footage and start into the run folder; what differs from the last start."""
    comm, changed = engine.ranks.comm, ""
    if comm.rank == 0:
        way = {"world": comm.world, "gradients": engine.gradients}
        starts = read_json(folder / RUN_FILE).get("starts", [])
        last = starts[-1] if starts else way
        if (
            last["world"] == comm.world
            and last.get("gradients", way["gradients"]) != way["gradients"]
        ):
            changed = (
                f"; gradients: {way['gradients']}, and {last['gradients']} before: their sums "
                "may differ in the last bit"
            )
        steps = length(config, opened.manifest.clips)  # None: minutes decide
        start = {**way, "command": sys.argv, "steps": steps}
        lives.begin(folder, start=start, fingerprint=opened.manifest.fingerprint)
        replace_durable(folder / CONFIG, to_yaml(config).encode())
    comm.barrier()
    return changed


def open_telemetry(
    config: Config, opened: OpenManifest, folder: Path, ranks: Ranks, begin: Progress
) -> Telemetry:
    """Telemetry of this rank; each node's first process serves, and rank 0 knows where."""
    comm = ranks.comm
    telemetry = Telemetry(
        folder,
        config.telemetry,
        rank=comm.rank,
        serve=ranks.accelerator.local_process_index == 0,
        start_step=begin.step,
        done=share(config, length(config, opened.manifest.clips), begin.step, begin.seconds),
        info={"run": folder.name, "preset": config.preset, "world": comm.world},
        settings=to_dict(config),
    )
    telemetry.announce(comm.gather_json(telemetry.where))
    return telemetry
