"""What a training was promised to take and what it took, each rank a process of its own (Linux).

`measure` starts `python tests/support/peak.py FACTS.json --runs ...` for every rank; that makes the
estimate of `--dry-run`, trains, and writes both down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.training import SMALL, environment


def measure(folder: Path, data: Path, *words: str, ranks: int = 1) -> list[dict[str, Any]]:
    """Facts of every rank of a small training: `before`, `used` (bytes) and what was promised."""
    told = [folder / f"{rank}.json" for rank in range(ranks)]
    argv = ["--runs", str(folder), "name=run", f"data.manifest={data}", *SMALL, *words]
    started = []
    for rank, path in enumerate(told):
        env = environment()
        if ranks > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
            env |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_PORT": "0"}
            env["GLOO_SOCKET_IFNAME"] = "lo"
        command = [sys.executable, str(Path(__file__)), str(path), *argv]
        started.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    ends = [process.communicate()[1] for process in started]
    assert not any(process.returncode for process in started), "\n".join(ends)[-4000:]
    return [json.loads(path.read_text()) for path in told]


def resident() -> dict[str, int]:
    """Bytes of this process in memory: now, and at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines)
    names = {"now": "VmRSS", "most": "VmHWM"}
    return {name: int(facts[key].split()[0]) << 10 for name, key in names.items()}


def join(store: Path, world: int) -> None:
    """Meet the other ranks through a file, so that no port is chosen."""
    import torch.distributed as dist

    meet = dist.FileStore(str(store), world)
    dist.init_process_group("gloo", store=meet, rank=int(os.environ["RANK"]), world_size=world)


def run(told: Path, argv: list[str]) -> int:
    """Estimate, train, write down."""
    from data_shards.stream import open_manifest
    from trainer.config import resolve
    from trainer.estimate import estimate
    from trainer.main import main

    config = resolve(argv[2:])
    opened = open_manifest(config.data.manifest, config=config.data)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    promised = estimate(config, opened, ranks=ranks)
    facts = promised._asdict() | {"private": promised.private, "before": resident()}
    if ranks > 1:
        join(told.parent / "store", ranks)
    code = main(argv)
    told.write_text(json.dumps(facts | {"used": resident()}))
    return code


if __name__ == "__main__":
    ended = run(Path(sys.argv[1]), sys.argv[2:])
    sys.stderr.flush()
    os._exit(ended)  # gloo aborts at exit now and then
