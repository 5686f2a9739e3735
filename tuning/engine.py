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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data_shards.cores import cores
from data_shards.errors import UserError
from trainer.commit import read_json, replace_durable
from tuning import processes
from tuning.actor import make_trainable
from tuning.asking import make_callback, make_searcher
from tuning.guard import Guard, RayLost, rays_own, terminable
from tuning.halving import make_scheduler, seeded
from tuning.ledger import Ledger
from tuning.records import Record, Settings, read_records, settle_settings
from tuning.sampling import INSTALL
from tuning.turns import RETRIES, Turns

if TYPE_CHECKING:
    from tuning.plan import Planned

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
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the record has the reason, in one line
    # Ray nices its workers to 15, and trainings inherit it: beside other work they would starve.
    "RAY_worker_niceness": "0",
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes a local Ray listen on 127.0.0.1 only, on every system and not just on those it names."""
LISTEN, ANYWHERE = "telemetry.address=", "0.0.0.0"
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

    def listen(self, words: Sequence[str]) -> str:
        """Address of the endpoints of trials: any, where they may be on other machines than
        Prometheus and the words of all trials name none; empty: what those say, or loopback."""
        said = any(word.startswith(LISTEN) for word in words)
        return ANYWHERE if self.address and not said else ""


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
    ended = processes.end(
        [processes.Process(*known) for known in trainings], patience=processes.PATIENCE
    )
    # Ray's own have nothing to save, and its agents wait for a raylet that is gone.
    ended += processes.end(left, patience=2.0)
    (study / DRIVER).unlink(missing_ok=True)
    shutil.rmtree(study / SCRATCH, ignore_errors=True)
    Ledger(study).settle()  # it writes: after what may have filled the disk is gone
    return [str(known.pid) for known in ended]


def search(study: Path, planned: Planned, *, on_change: Callable[[Record], None]) -> str:
    """Run trials until the budget, the trials or the grid are used up.

    A study's settings and budget are written once Ray has room for its trials: a command that it
    refuses is put right and given again.

    Returns:
        Why it gave up before, in one line; empty where it did not.

    Raises:
        UserError: there is no room for a trial, or no such cluster.
    """
    settings, space, way, budget = planned
    ray = import_ray(local=not way.address)
    _connect(ray, settings, way)
    guard = Guard({} if way.address else rays_own())
    try:
        settle_settings(study, settings)
        Ledger(study).grant(budget)
        with terminable():
            turns = Turns(study, settings, space, way, on_change)
            _tune(ray, study, settings, way, turns, guard)
            return turns.gave_up
    except KeyboardInterrupt:
        if guard.lost:
            raise RayLost(f"Ray lost its {guard.lost}; the same command goes on") from None
        raise
    finally:
        guard.stop()
        if not guard.lost:
            ray.shutdown()
        clear_up(study)


def _tune(ray: Any, study: Path, settings: Settings, way: Way, turns: Turns, guard: Guard) -> None:
    below = [list(known) for known in processes.descendants(os.getpid())]
    replace_durable(study / DRIVER, json.dumps({"pid": os.getpid(), "left": below}).encode())
    place = {"cpu": settings.cpus, "gpu": settings.gpus}
    given = {"study": str(study), "targets": way.targets, "listen": way.listen(settings.words)}
    with seeded(settings.seed):
        ray.tune.Tuner(
            ray.tune.with_resources(make_trainable(), place),
            param_space=given,
            tune_config=ray.tune.TuneConfig(
                num_samples=-1, max_concurrent_trials=way.concurrent or None, reuse_actors=True,
                search_alg=make_searcher(turns),
                scheduler=make_scheduler(study, settings, way.scheduler),
            ),
            run_config=ray.tune.RunConfig(
                name=SCRATCH, storage_path=str(study), verbose=0,
                failure_config=ray.tune.FailureConfig(max_failures=RETRIES),
                callbacks=[make_callback(turns, lost=guard.gone)],
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
            address="local", include_dashboard=False, object_store_memory=STORE_BYTES,
            num_cpus=cores(), **quiet,  # Ray itself counts those of the machine
        )  # fmt: skip
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    try:
        require_room(settings, nodes)
    except UserError:
        ray.shutdown()
        raise
    if idle := idle_gpus(settings, nodes, concurrent=way.concurrent):
        print(idle, flush=True)


def require_room(settings: Settings, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse trials that fit on no node, since a trial lies within one.

    Args:
        nodes: resources of each node, as Ray names them.

    Raises:
        UserError: naming the option.
    """
    wanted = {"GPU": settings.gpus, "CPU": settings.cpus}
    for name, option in (("GPU", "--gpus-per-trial"), ("CPU", "--cpus-per-trial")):
        most = max((node.get(name, 0) for node in nodes), default=0)
        if wanted[name] > most:
            raise UserError(f"{option}: {wanted[name]:g}, and no node has more than {most:g}")
    if not any(all(node.get(n, 0) >= w for n, w in wanted.items()) for node in nodes):
        raise UserError(
            f"--gpus-per-trial: {settings.gpus:g} and {settings.cpus:g} cores, and no node has both"
        )


def idle_gpus(
    settings: Settings, nodes: Sequence[Mapping[str, float]], *, concurrent: int = 0
) -> str:
    """A line where cores keep GPUs idle, since a trial needs some of both; empty: they do not.

    Args:
        nodes: resources of each node, as Ray names them.
        concurrent: most trials at a time that were asked for; 0: as many as there is room for.
    """
    if not settings.gpus:
        return ""
    by_gpu = [_trials_on(node.get("GPU", 0), settings.gpus) for node in nodes]
    by_core = [int(node.get("CPU", 0) / settings.cpus) for node in nodes]
    room = sum(min(both) for both in zip(by_gpu, by_core, strict=True))
    most = sum(by_gpu)
    if room >= min(most, concurrent or most):
        return ""
    return (
        f"GPUs stay idle: they have room for {most} trials, the cores beside them for {room} at "
        f"--cpus-per-trial {settings.cpus:g}; more cores on each node (sbatch --cpus-per-task) or "
        "fewer for each trial would use them"
    )


def _trials_on(gpus: float, each: float) -> int:
    """Trials that fit on GPUs; a fraction lies on one of them."""
    return int(gpus) * int(1 / each) if each < 1 else int(gpus / each)
