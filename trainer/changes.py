"""Settings that change on the way: `train.changes`, so that a run's whole history is its config.

`300: optim.gamma_rate=0.002 loss.margin=1; 600: latents.rate=0.005` takes the first two values from
step 300 on (the step after 300 were taken) and the third from step 600 on. Rates are those before
their curve. What a step does stays a function of the config and the step's number, so a run that
was stopped goes on as one that never was.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from itertools import pairwise
from typing import Any, NamedTuple

from data_shards.errors import UserError

CHANGING = (
    "optim.gamma_rate", "optim.theta_rate", "latents.rate", "loss.lambda_static",
    "loss.lambda_triplet", "loss.radius", "loss.gap", "loss.margin",
)  # fmt: skip
"""Settings of which every step may have a value of its own."""


class Change(NamedTuple):
    """Values that hold from a step on."""

    step: int
    values: tuple[tuple[str, float], ...]
    """By dotted path; whole numbers where the setting is one."""


def parse(text: str) -> tuple[Change, ...]:
    """The changes of a text, in order.

    Raises:
        UserError: one line that shows the wrong part.
    """
    parts = [part.strip() for part in text.split(";")] if text.strip() else []
    found = [_parse(part) for part in parts]
    for before, after in pairwise(found):
        if after.step <= before.step:
            raise UserError(f"train.changes: step {after.step} after step {before.step}")
    return tuple(found)


def _parse(part: str) -> Change:
    head, colon, words = part.partition(":")
    if not colon or not head.strip().isdecimal() or not words.split() or int(head) < 1:
        raise UserError(
            f"train.changes: {part!r}: expected STEP: setting=value ..., from step 1 on"
        )
    values = []
    for word in words.split():
        path, _, value = word.partition("=")
        if path not in CHANGING:
            raise UserError(
                f"train.changes: {path} cannot change on the way; {', '.join(CHANGING)} can"
            )
        try:
            values.append((path, float(value)))
        except ValueError:
            raise UserError(f"train.changes: {word!r}: {value!r} is not a number") from None
    return Change(int(head), tuple(values))


def write(changes: tuple[Change, ...]) -> str:
    """The text of changes; `parse` gives them back."""
    return "; ".join(
        f"{change.step}: " + " ".join(f"{path}={value!r}" for path, value in change.values)
        for change in changes
    )


class Changing:
    """The config of every step."""

    def __init__(self, config: Any) -> None:
        """Builds the config of every change.

        Raises:
            UserError: a value out of its range.
        """
        changes = parse(config.train.changes)
        self._steps = [change.step for change in changes]
        self._configs = [config]
        for change in changes:
            config = _changed(config, change)
            self._configs.append(config)

    def at(self, step: int) -> Any:
        """The config of the step with this number (from 0); the same object between changes."""
        return self._configs[bisect_right(self._steps, step)]


def _changed(config: Any, change: Change) -> Any:
    groups: dict[str, dict[str, Any]] = {}
    for path, value in change.values:
        group, name = path.split(".")
        whole = isinstance(getattr(getattr(config, group), name), int)
        if whole and value != int(value):
            raise UserError(f"train.changes: {path}={value:g} is not a whole number")
        groups.setdefault(group, {})[name] = int(value) if whole else value
    try:
        made = {g: dataclasses.replace(getattr(config, g), **v) for g, v in groups.items()}
    except UserError as error:
        raise UserError(f"train.changes: {change.step}: {error}") from None
    # What this one is made of is not to be checked again by each that is made of it.
    train = dataclasses.replace(config.train, changes="")
    return dataclasses.replace(config, train=train, **made)
