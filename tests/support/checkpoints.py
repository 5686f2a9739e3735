"""Small runs to save: tensors that tell their step, and a process that dies at a chosen moment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint import CheckpointConfig, Checkpointer
from trainer.comm import Comm

PAGES = 6


def page(step: int, index: int) -> torch.Tensor:
    """Latent page `index` as it is after `step`."""
    return torch.arange(12, dtype=torch.float32).view(3, 4) + 1000 * step + 100 * index


def pages(step: int, comm: Comm) -> Iterator[tuple[str, torch.Tensor]]:
    """The pages that this rank owns."""
    for index in range(comm.rank, PAGES, comm.world):
        yield f"static.value.{index:02d}", page(step, index)


def save(saver: Checkpointer, step: int, comm: Comm, **more: Any) -> Path | None:
    """Save the little run after `step`."""
    weights = torch.full((2, 3), float(step)).t()
    common = {"networks": {"weight": weights}, "average": {}}
    return saver.save(step, common=common, own=pages(step, comm), state={"step": step}, **more)


def holds(path: Path, step: int) -> bool:
    """Whether a checkpoint is exactly what `save` wrote."""
    saved = Checkpointer(path.parent.parent, CheckpointConfig(), comm=Comm()).open(path)
    equal = [
        torch.equal(saved.read(f"static.value.{index:02d}"), page(step, index))
        for index in range(PAGES)
    ]
    weight = saved.common("networks")["weight"]
    return all(equal) and saved.state["step"] == step and bool((weight == step).all())


def die_at(moment: int, names: tuple[str, ...] = ("fsync", "rename", "unlink", "rmdir")) -> None:
    """Have this process killed just before call number `moment` of the named functions of `os`."""
    left = [moment]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def before(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return before

    for name in names:
        setattr(os, name, counted(getattr(os, name)))


def main(argv: list[str]) -> int:
    """For each moment 0, 1, ...: a fresh run folder, in which a child dies at that moment while it
    makes its third checkpoint; ends with the first child that survives. Prints how many died."""
    torch.set_num_threads(1)
    background, moment = argv[2] == "background", 0
    while True:
        folder = Path(argv[1]) / f"{moment:03d}"
        config = CheckpointConfig(keep=1, minutes=0)
        for step in (1, 2):
            saver = Checkpointer(folder, config, comm=Comm())
            save(saver, step, Comm())
            saver.close()  # no thread of this process is to be at work when it forks
        child = os.fork()
        if child == 0:
            die_at(moment)
            saver = Checkpointer(folder, config, comm=Comm())
            save(saver, 3, Comm(), background=background)
            saver.finish()
            saver.close()  # the old one's files are removed until then
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            print(moment)
            return 0
        moment += 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
