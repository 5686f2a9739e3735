"""Ray's view of a trial: an actor that serves one trial after the other.

Starting an actor and importing torch takes seconds, so an actor is used again (`reuse_actors`), and
its trainings are forked from a process that has everything imported (`nursery`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.nursery import Nursery
    from tuning.records import Settings
    from tuning.trial import Trial

WORST = -1e9
"""Score, at a rung that it has not reported, of a trial that failed."""


def made(given: dict[str, str], settings: Settings, *, nursery: Nursery | None) -> Trial:
    """The trial that Ray has given to an actor."""
    from tuning.command import watched
    from tuning.trial import Trial

    study, trial = Path(given["study"]), given["trial"]
    more = watched(study, trial, given["targets"], address=given["listen"])
    return Trial(study, settings, trial, nursery=nursery, more=more)


def report(trial: Trial) -> dict[str, Any]:
    """Wait for a trial's next rung or its end, and tell Ray."""
    seen = trial.advance()
    return ending(trial) if seen.over else {"step": seen.step, "score": seen.psnr}


def ending(trial: Trial) -> dict[str, Any]:
    """What Ray is told of a trial that has ended: at no rung, where it was neither finished nor
    failed, since what it has reached is known and says nothing against it."""
    record = trial.record
    step = record.step if record.status in ("done", "failed") else 0
    ranked = record.status == "done" and record.rungs
    return {"step": step, "score": record.rungs[-1][1] if ranked else WORST, "done": True}


def make_trainable() -> Any:
    """One `step` takes a trial to its next rung or its end."""
    from ray import tune

    class Ours(tune.Trainable):
        def setup(self, config: dict) -> None:
            from tuning.command import nursery_for
            from tuning.records import read_settings

            self._settings = read_settings(Path(config["study"]))
            self._nursery = nursery_for(self._settings)
            self._given, self._trial = config, None

        def reset_config(self, new_config: dict) -> bool:
            self._stop()
            self._given = new_config
            return True

        def step(self) -> dict:
            # Started here and not in `setup`: Tune may set up an actor for a trial and then give
            # the trial to another one.
            if self._trial is None:
                self._trial = made(self._given, self._settings, nursery=self._nursery)
                if not self._trial.start():
                    return ending(self._trial)
            return report(self._trial)

        def _stop(self) -> None:
            if self._trial is not None:
                self._trial.stop()
            self._trial = None

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing: the training saves itself."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Nothing: the training resumes itself."""

        def cleanup(self) -> None:
            self._stop()
            if self._nursery is not None:
                self._nursery.close()

    return Ours
