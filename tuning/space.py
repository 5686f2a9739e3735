"""What is searched: ranges of settings with priors around Tab. 6, and spaces from YAML files.

A space maps dotted config paths to ranges:

    latents.static: {low: 16, high: 256, log: true}     # an integer where the setting is one
    loss.radius: [1, 2, 3]                               # a choice
    total: 256                                           # optional: D_s + D_t is kept at 256
    priors: true                                         # optional: those of `PRIORS`, too
    rates: true                                          # optional: those of `RATES`, too
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from data_shards.errors import UserError
from trainer.config import Config, resolve
from trainer.schedule import pace
from trainer.settings import fields_of, load_yaml

STATIC, TRANSIENT = "latents.static", "latents.transient"
RADIUS, GAP = "loss.radius", "loss.gap"
TOTAL = "total"
MORE = ("priors", "rates")


class Range(NamedTuple):
    """Values of one setting: `choices`, or low..high (both included)."""

    path: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    def ends(self) -> tuple[Any, ...]:
        """Values that have to be legal for the range to be."""
        return self.choices or (self.value(self.low), self.value(self.high))

    def value(self, number: float) -> Any:
        """A number as the setting's type has it."""
        return round(number) if self.integer else float(number)

    def grid(self, points: int = 3) -> list[Any]:
        """Choices, or `points` values evenly spread over the range (its logarithm if `log`)."""
        if self.choices:
            return list(self.choices)
        shares = [i / (points - 1) for i in range(points)]
        if self.log:
            spread = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            spread = [self.low + (self.high - self.low) * share for share in shares]
        return list(dict.fromkeys(map(self.value, spread)))


class Space(NamedTuple):
    """Ranges by path, and what D_s + D_t has to be (None: free)."""

    ranges: tuple[Range, ...]
    total: int | None = None


# Tab. 6: D_s 206, 56, 56; D_t 50, 200, 200 (their sum is 256); alpha 2; lambda_s 0.01 throughout;
# lambda_t 0.01, 0.1, 0.01. Priors reach about one decade or a factor of 4 around those.
PRIORS: dict[str, Any] = {
    STATIC: {"low": 16, "high": 256, "log": True},
    TRANSIENT: {"low": 16, "high": 256, "log": True},
    RADIUS: [1, 2, 3, 4],
    "loss.margin": {"low": 0.25, "high": 4.0, "log": True},
    "loss.lambda_static": {"low": 0.001, "high": 0.1, "log": True},
    "loss.lambda_triplet": {"low": 0.001, "high": 0.3, "log": True},
}
RATES: dict[str, Any] = {
    "optim.gamma_rate": {"low": 1e-3, "high": 2e-2, "log": True},
    "optim.theta_rate": {"low": 2e-4, "high": 5e-3, "log": True},
    "latents.rate": {"low": 2e-3, "high": 5e-2, "log": True},
}
"""Optional (`--rates`): a factor of 4 or 5 to both sides of the defaults (0.005, 0.001, 0.01),
which are rates of Adam. Those of Tab. 6 (presets `*_paper`) are momentum SGD's and lie
elsewhere."""


def default_space(*, rates: bool = False, total: int | None = None) -> Space:
    """The documented priors."""
    return space_of({"priors": True, "rates": rates}, total=total)


def load_space(file: str, *, total: int | None = None) -> Space:
    """A space from a YAML file.

    Raises:
        UserError: unreadable, an unknown path (the nearest is named), a range that is none.
    """
    layer = load_yaml(file)
    try:
        return space_of(layer, total=total)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def space_of(layer: Mapping[str, Any], *, total: int | None = None) -> Space:
    """A space from a mapping such as `PRIORS`; `total` wins over the mapping's.

    Raises:
        UserError: naming the path.
    """
    types = {field.path: field.type for field in fields_of(Config)}
    layer = dict(layer)
    stated = layer.pop(TOTAL, None)
    total = stated if total is None else total
    if total is not None and (not isinstance(total, int) or total < 2):
        raise UserError(f"total: {total!r} is not a sum of two widths, such as 256")
    if total is not None and TRANSIENT in layer:
        raise UserError(f"{TRANSIENT}: follows from total; leave out one of them")
    layer = {**_more(layer), **layer}
    if not layer:
        raise UserError("space: nothing to search; name at least one setting")
    for path in layer:
        require_known(str(path), list(types))
    ranges = [_range(path, layer[path], types[path]) for path in layer]
    if total is not None:
        ranges = _bounded([r for r in ranges if r.path != TRANSIENT], total)
    return Space(tuple(ranges), total)


def _more(layer: dict[str, Any]) -> dict[str, Any]:
    """Takes `MORE` out of a mapping, and gives the ranges that they stand for."""
    found = {}
    for name, ranges in zip(MORE, (PRIORS, RATES), strict=True):
        wanted = layer.pop(name, False)
        if not isinstance(wanted, bool):
            raise UserError(f"{name}: {wanted!r} is neither true nor false")
        found |= ranges if wanted else {}
    return found


def require_known(path: str, known: Sequence[str]) -> None:
    """Refuse a path that is no setting.

    Raises:
        UserError: naming the nearest setting.
    """
    if path in known:
        return
    leaf = [name for name in known if name.rpartition(".")[2] == path.rpartition(".")[2]]
    near = leaf or difflib.get_close_matches(path, known, n=1, cutoff=0.0)
    raise UserError(f"{path}: no such setting; did you mean {near[0]}?")


def words_of(space: Space, values: Mapping[str, Any], *, fixed: Sequence[str] = ()) -> list[str]:
    """Words `a.b=c` of a trial: its values, and those that follow from them.

    D_t follows from D_s under a total; the triplet's gap is never below its radius (Sec. 3.2: alpha
    does both) unless it is searched or fixed itself.
    """
    words = [f"{path}={_spell(value)}" for path, value in values.items()]
    if space.total is not None and STATIC in values:
        words.append(f"{TRANSIENT}={space.total - values[STATIC]}")
    return words + [f"{k}={v}" for k, v in gap_of(values, fixed=fixed, searched=values).items()]


def gap_of(
    values: Mapping[str, Any], *, fixed: Sequence[str], searched: Mapping[str, Any]
) -> dict[str, Any]:
    """The triplet's gap where it follows a radius that values set: it is neither among the words
    that are `fixed` nor among the settings that are `searched`."""
    own = GAP in searched or any(word.startswith(f"{GAP}=") for word in fixed)
    return {} if own or RADIUS not in values else {GAP: values[RADIUS]}


def values_of(space: Space, config: Config) -> dict[str, Any] | None:
    """Values of a config as a point of the space; None where it lies outside."""
    values: dict[str, Any] = {item.path: _value_of(config, item) for item in space.ranges}
    latents = config.latents
    total = space.total is None or latents.static + latents.transient == space.total
    within = all(
        values[item.path] in item.choices
        if item.choices
        else values[item.path] is not None and item.low <= values[item.path] <= item.high
        for item in space.ranges
    )
    return values if within and total else None


def _value_of(config: Config, item: Range) -> Any:
    """A setting's value; of a schedule's that is null, the number that its kind fills in."""
    value = functools.reduce(getattr, item.path.split("."), config)
    group, _, name = item.path.partition(".")
    if value is None and group == "schedule" and None not in item.choices:
        return getattr(pace(config.schedule), name, None)
    return value


def check(space: Space, fixed: Sequence[str]) -> None:
    """Resolve the config at both ends of every range, and at the largest radius with the smallest
    gap, so that no trial fails on a range.

    Raises:
        UserError: naming the setting, or one that is searched and fixed at once.
    """
    searched = {r.path for r in space.ranges} | ({TRANSIENT} if space.total is not None else set())
    for word in fixed:
        if word.partition("=")[0] in searched:
            raise UserError(f"{word}: searched by the space already; leave out one of them")
    resolve(list(fixed))
    for item in space.ranges:
        for value in item.ends():
            resolve([*fixed, *words_of(space, {item.path: value}, fixed=fixed)])
    ends = {item.path: item.ends() for item in space.ranges if item.path in (RADIUS, GAP)}
    if len(ends) == 2:
        resolve([*fixed, f"{RADIUS}={max(ends[RADIUS])}", f"{GAP}={min(ends[GAP])}"])


def _spell(value: Any) -> str:
    return "null" if value is None else repr(value) if isinstance(value, float) else str(value)


def _range(path: str, spec: Any, kind: str) -> Range:
    if isinstance(spec, list | tuple) and spec:
        return Range(path, choices=tuple(spec))
    allowed = {"low", "high", "log"}
    if not isinstance(spec, Mapping) or not {"low", "high"} <= spec.keys() <= allowed:
        raise UserError(f"{path}: {spec!r} is no range; write [a, b, c] or {{low: 1, high: 9}}")
    low, high, log = spec["low"], spec["high"], spec.get("log", False)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high))
    numbers = numbers and all(map(math.isfinite, (low, high)))
    if not numbers or not low < high or (log and low <= 0):
        raise UserError(f"{path}: low and high must be numbers, low < high, above 0 where log")
    if kind.split(" | ")[0] not in ("int", "float"):
        raise UserError(f"{path}: of type {kind}, which has no range; write a list of choices")
    whole = kind.startswith("int")
    if whole and not (float(low).is_integer() and float(high).is_integer()):
        raise UserError(f"{path}: of type {kind}: low and high must be whole numbers")
    return Range(path, float(low), float(high), bool(log), whole)


def _bounded(ranges: list[Range], total: int) -> list[Range]:
    """Keep D_s inside 1..total-1; a space without D_s gets it."""
    if STATIC not in {r.path for r in ranges}:
        ranges = [_range(STATIC, PRIORS[STATIC], "int"), *ranges]
    kept = []
    for item in ranges:
        if item.path == STATIC:
            item = item._replace(high=min(item.high, total - 1)) if not item.choices else item
            legal = all(0 < v < total for v in item.choices) if item.choices else True
            if not legal or (not item.choices and item.low >= item.high):
                raise UserError(f"{STATIC}: leaves no width for {TRANSIENT} under total {total}")
        kept.append(item)
    return kept
