"""Ray Tune runs the trials: places them, asks for new ones, and stops them at rungs (ASHA).

The only module that imports ray, and only when a search runs. Whatever Ray keeps is scratch: the
study's own records and ledger are enough to go on, so a driver killed with -9 costs the trials that
were running nothing but the steps since their last checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from data_shards.errors import UserError
from data_shards.stream import open_manifest
from trainer.commit import read_json, replace_durable
from tuning import processes
from tuning.ledger import Ledger
from tuning.records import (
    DONE,
    STOPPED,
    UNFINISHED,
    Record,
    Settings,
    folder_of,
    read_record,
    read_records,
    write_record,
)
from tuning.sampling import INSTALL, Sampler
from tuning.space import Space, words_of
from tuning.trial import Trial

DRIVER = "driver.json"
SCRATCH = "ray"
WORST = -1e9
"""Score, at a rung, of a trial that failed."""
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
    try:
        below = [list(known) for known in processes.descendants(os.getpid())]
        replace_durable(study / DRIVER, json.dumps({"pid": os.getpid(), "left": below}).encode())
        place = {"cpu": settings.cpus, "gpu": settings.gpus}
        searcher = make_searcher(study, settings, space, way, on_change)
        ray.tune.Tuner(
            ray.tune.with_resources(make_trainable(), place),
            param_space={"study": str(study)},
            tune_config=ray.tune.TuneConfig(
                num_samples=-1, search_alg=searcher,
                max_concurrent_trials=way.concurrent or None,
                scheduler=make_scheduler(study, settings, way),
            ),
            run_config=ray.tune.RunConfig(
                name=SCRATCH, storage_path=str(study), verbose=0,
                failure_config=ray.tune.FailureConfig(max_failures=RETRIES),
            ),
        ).fit()  # fmt: skip
    finally:
        ray.shutdown()
    clear_up(study)


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


def make_scheduler(study: Path, settings: Settings, way: Way) -> Any:
    """ASHA over the rungs, knowing what earlier lives reached at them; or none."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if way.scheduler == "none" or not settings.rungs:
        return FIFOScheduler()
    asha = ASHAScheduler(
        time_attr="step", metric="score", mode="max", max_t=settings.steps,
        grace_period=settings.rungs[0], reduction_factor=3,
    )  # fmt: skip
    nobody: Any = None  # the controller, which ASHA does not ask
    for record in read_records(study):
        earlier: Any = SimpleNamespace(trial_id=record.id)
        if record.status in UNFINISHED or not record.rungs:
            continue  # an unfinished one goes on and reports its rungs itself
        asha.on_trial_add(nobody, earlier)
        for step, psnr in record.rungs:
            asha.on_trial_result(nobody, earlier, {"step": step, "score": psnr})
    return asha


def make_searcher(
    study: Path, settings: Settings, space: Space, way: Way, on_change: Callable[[Record], None]
) -> Any:
    """Ray's view of our sampler: unfinished trials first, then new ones."""
    from ray.tune.search import Searcher

    records = read_records(study)
    sampler = Sampler(
        space, settings.objectives, records, searcher=way.searcher, seed=settings.seed
    )
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
                if drawn is None:
                    return Searcher.FINISHED
                self._made += 1
                name, values = drawn
                words = (
                    *settings.words, *words_of(space, values, fixed=settings.words),
                    f"name={name}",
                )  # fmt: skip
                record = write_record(study, Record(name, values, words))
            self._names[trial_id] = record.id
            return {"trial": record.id}

        def on_trial_result(self, trial_id: str, result: dict) -> None:
            on_change(read_record(study, self._names[trial_id]))

        def on_trial_complete(
            self, trial_id: str, result: dict | None = None, error: bool = False
        ) -> None:
            record = read_record(study, self._names[trial_id])
            if record.status == "running" and not error:
                record = record._replace(status=STOPPED)  # its own process writes this down
            sampler.tell(record)
            on_change(record)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the records are what is kept."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing."""

    return Ours()


def make_trainable() -> Any:
    """Ray's view of a trial: one `step` takes it to its next rung or its end."""
    from ray import tune

    class Ours(tune.Trainable):
        def setup(self, config: dict) -> None:
            from tuning.records import read_settings

            study = Path(config["study"])
            settings = read_settings(study)
            manifest = open_manifest(settings.manifest).manifest
            self._trial = Trial(study, settings, config["trial"], manifest)
            self._started = self._trial.start()

        def step(self) -> dict:
            steps = self._trial.record.step
            if not self._started:
                return {"step": steps, "score": WORST, "done": True}
            seen = self._trial.advance()
            if not seen.over:
                return {"step": seen.step, "score": seen.psnr}
            record = self._trial.record
            last = record.rungs[-1][1] if record.rungs and record.status == DONE else WORST
            return {"step": steps if record.status != DONE else record.step, "score": last,
                    "done": True}  # fmt: skip

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: the training saves itself."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing: the training resumes itself."""

        def cleanup(self) -> None:
            self._trial.stop()

    return Ours


def unfinished(study: Path) -> list[str]:
    """Trials that a larger budget would go on with."""
    return [record.id for record in read_records(study) if record.status in UNFINISHED]


__all__ = ["Way", "clear_up", "folder_of", "import_ray", "search", "unfinished"]
