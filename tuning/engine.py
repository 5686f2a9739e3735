"""Ray Tune runs the trials: places them, asks for new ones, and stops them at rungs.

Ray is imported only when a search runs (here, in `actor` and in `halving`). Whatever Ray keeps is
scratch: the study's own records and ledger are enough to go on, so a driver killed with -9 costs
the trials that were running nothing but the steps since their last checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data_shards.errors import UserError
from trainer.commit import read_json, replace_durable
from trainer.config import resolve
from tuning import processes
from tuning.actor import make_trainable
from tuning.guard import Guard, RayLost, rays_own, terminable
from tuning.halving import make_scheduler
from tuning.ledger import Ledger
from tuning.population import Population, Wait
from tuning.records import (
    STOPPED,
    UNFINISHED,
    Record,
    Settings,
    folder_of,
    read_record,
    read_records,
    stop_mark,
    write_record,
)
from tuning.sampling import INSTALL, Drawn, Sampler
from tuning.space import Space, values_of, words_of

DRIVER = "driver.json"
SCRATCH = "ray"
QUIET = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Ray nices its workers to 15, and trainings inherit it: beside other work they would starve.
    "RAY_worker_niceness": "0",
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes a local Ray listen on 127.0.0.1 only, on every system and not just on those it names."""
RETRIES = 2
"""Times that a trial whose worker was killed is taken up again, from its training's checkpoint."""
STORE_BYTES = 100 << 20
"""Ray's object store: nothing but small dicts travels."""


class Way(NamedTuple):
    """How a study is searched; may change from one life to the next."""

    searcher: str = "optuna"
    scheduler: str = "asha"
    concurrent: int = 0
    """Most trials at a time; 0: as many as there is room for."""
    trials: int = 0
    """Most trials of the study; 0: as many as the budget bears."""
    address: str = ""
    """Address of a Ray cluster; empty: a local one."""
    targets: str = ""
    """Folder of Prometheus file_sd files in which running trials are; empty: none."""


def import_ray(*, local: bool) -> Any:
    """The ray package, set up for a Ray of this process's own (`local`) or a running cluster.

    Raises:
        UserError: it is not installed; says how to.
    """
    wanted = {**QUIET, **(LOOPBACK if local else {})}
    os.environ.update({name: os.environ.get(name, value) for name, value in wanted.items()})
    try:
        import ray
        import ray.tune
    except ImportError:
        raise UserError(f"ray is not installed: {INSTALL}") from None
    return ray


def clear_up(study: Path) -> list[str]:
    """After a dead driver: end its Ray and its trainings, charge their leases; what was ended."""
    try:
        left = [processes.Process(*item) for item in read_json(study / DRIVER).get("left", [])]
    except (ValueError, TypeError) as error:
        raise UserError(f"{study / DRIVER}: not readable ({error}); remove it") from None
    trainings = [record.process for record in read_records(study) if record.process]
    ended = processes.end([processes.Process(*known) for known in trainings])
    # Ray's own have nothing to save, and its agents wait for a raylet that is gone.
    ended += processes.end(left, patience=2.0)
    Ledger(study).settle()
    (study / DRIVER).unlink(missing_ok=True)
    shutil.rmtree(study / SCRATCH, ignore_errors=True)
    return [str(known.pid) for known in ended]


def search(
    study: Path, settings: Settings, space: Space, way: Way, *, on_change: Callable[[Record], None]
) -> None:
    """Run trials until the budget, the trials or the grid are used up."""
    ray = import_ray(local=not way.address)
    _connect(ray, settings, way)
    guard = Guard({} if way.address else rays_own())
    try:
        with terminable():
            _tune(ray, study, settings, space, way, on_change)
    except KeyboardInterrupt:
        if guard.lost:
            raise RayLost(f"Ray lost its {guard.lost}; the same command goes on") from None
        raise
    finally:
        guard.stop()
        if not guard.lost:
            ray.shutdown()
        clear_up(study)


def _tune(
    ray: Any, study: Path, settings: Settings, space: Space, way: Way,
    on_change: Callable[[Record], None],
) -> None:  # fmt: skip
    below = [list(known) for known in processes.descendants(os.getpid())]
    replace_durable(study / DRIVER, json.dumps({"pid": os.getpid(), "left": below}).encode())
    place = {"cpu": settings.cpus, "gpu": settings.gpus}
    ray.tune.Tuner(
        ray.tune.with_resources(make_trainable(), place),
        param_space={"study": str(study), "targets": way.targets},
        tune_config=ray.tune.TuneConfig(
            num_samples=-1, max_concurrent_trials=way.concurrent or None, reuse_actors=True,
            search_alg=make_searcher(study, settings, space, way, on_change),
            scheduler=make_scheduler(study, settings, way.scheduler),
        ),
        run_config=ray.tune.RunConfig(
            name=SCRATCH, storage_path=str(study), verbose=0,
            failure_config=ray.tune.FailureConfig(max_failures=RETRIES),
        ),
    ).fit()  # fmt: skip


def _connect(ray: Any, settings: Settings, way: Way) -> None:
    """Join a cluster or start a local Ray.

    Raises:
        UserError: a trial asks for more than there is.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if way.address:
        try:
            ray.init(address=way.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--address: {way.address}: {' '.join(str(error).split())}") from None
    else:
        ray.init(
            address="local", include_dashboard=False, object_store_memory=STORE_BYTES, **quiet,
        )  # fmt: skip
    there = ray.cluster_resources()
    for name, option, wanted in (
        ("GPU", "--gpus-per-trial", settings.gpus),
        ("CPU", "--cpus-per-trial", settings.cpus),
    ):
        if wanted > there.get(name, 0):
            ray.shutdown()
            raise UserError(f"{option}: {wanted:g}, and there are {there.get(name, 0):g}")


def _new_record(study: Path, settings: Settings, space: Space, drawn: Drawn) -> Record:
    if drawn.parent:
        words = read_record(study, drawn.parent).words
    else:
        words = (*settings.words, *words_of(space, drawn.values, fixed=settings.words))
    if drawn.until:
        words = (*words, f"train.until={drawn.until}", f"train.changes={drawn.changes}")
    record = Record(drawn.name, drawn.values, (*words, f"name={drawn.name}"))
    more = {"parent": drawn.parent, "until": drawn.until, "changes": drawn.changes}
    return write_record(study, record._replace(**more))


def _make_sampler(study: Path, settings: Settings, space: Space, way: Way) -> Sampler | Population:
    # What the user would have trained with: a search finds nothing worse.
    first = values_of(space, resolve(settings.words))
    if way.searcher == "pb2":
        return Population(space, settings, lambda: read_records(study), first=first)
    return Sampler(
        space, settings.objectives, read_records(study), searcher=way.searcher,
        seed=settings.seed, first=first,
    )  # fmt: skip


def make_searcher(
    study: Path, settings: Settings, space: Space, way: Way, on_change: Callable[[Record], None]
) -> Any:
    """Ray's view of our sampler: unfinished trials first, then new ones."""
    from ray.tune.search import Searcher

    records = read_records(study)
    sampler = _make_sampler(study, settings, space, way)
    waiting = [record for record in records if record.status in UNFINISHED]
    least = settings.width * settings.interval

    class Ours(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="score", mode="max")
            self._names: dict[str, str] = {}
            self._made = len(records)

        def suggest(self, trial_id: str) -> Any:
            if Ledger(study).account().left < least:
                return Searcher.FINISHED
            if waiting:
                record = waiting.pop(0)
                sampler.ask(record.id, record.values)
            else:
                drawn = None if way.trials and self._made >= way.trials else sampler.draw()
                if isinstance(drawn, Wait):
                    return None
                if drawn is None:
                    return Searcher.FINISHED
                self._made += 1
                record = _new_record(study, settings, space, drawn)
            self._names[trial_id] = record.id
            return {"trial": record.id}

        def on_trial_result(self, trial_id: str, result: dict) -> None:
            on_change(read_record(study, self._names[trial_id]))

        def on_trial_complete(
            self, trial_id: str, result: dict | None = None, error: bool = False
        ) -> None:
            record = read_record(study, self._names[trial_id])
            if record.status == "running" and not error:
                stop_mark(study, record.id).touch()
                record = record._replace(status=STOPPED)  # its own process writes this down
            sampler.tell(record)
            on_change(record)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the records are what is kept."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing."""

    return Ours()


def unfinished(study: Path) -> list[str]:
    """Trials that a larger budget would go on with."""
    return [record.id for record in read_records(study) if record.status in UNFINISHED]


__all__ = ["Way", "clear_up", "folder_of", "import_ray", "search", "unfinished"]
