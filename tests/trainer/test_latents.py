"""The dictionary against a slow loop, and on 1, 2 and 4 ranks against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_shards.errors import UserError
from tests.support.dictionaries import BATCH, ROWS, batch, contents, keys_of, make, train
from tests.support.ranks import run_ranks
from trainer.comm import Comm
from trainer.latents import LatentDictionary, LatentsConfig, unit_ball

STEPS = 6
SETTINGS = {
    "momentum": {},
    "adam": {"optimiser": "adam", "rate": 0.05},
    "one row": {"optimiser": "momentum", "rows": {"static": 1, "transient": 2}},
    "replicated": {"replicate_kib": 64},
    "clip rank": {"low_rank": {"rank": 1}},
}


def computed_start() -> torch.Tensor:
    return torch.arange(ROWS["transient"] * 18.0).reshape(-1, 3, 6) / 1000


def trained(comm: Comm) -> dict:
    from trainer.lowrank import LowRankConfig

    out = {}
    for name, settings in SETTINGS.items():
        settings = dict(settings)
        if "low_rank" in settings:
            settings["low_rank"] = LowRankConfig(**settings["low_rank"])
        dictionary = make(comm, **settings)
        first = contents(dictionary)
        train(dictionary, comm, last=STEPS)
        out[name] = {"first": first, "last": contents(dictionary)}
    kept = make(comm)
    rows = torch.arange(8)[comm.rank * 8 // comm.world : (comm.rank + 1) * 8 // comm.world]
    latents = kept.gather(rows % 5, rows)
    latents.transient_BTM.sum().backward()
    latents.static_BS.sum().backward()
    kept.accumulate(latents, keep_B=rows % 2 == 0)
    kept.step()
    start = computed_start() if comm.rank == 0 else None
    for kib in (0, 64):
        dictionary = make(comm, replicate_kib=kib)
        dictionary.assign("transient", start)
        out[f"assigned {kib}"] = {"last": contents(dictionary)}
    out["kept"] = {"first": contents(make(comm)), "last": contents(kept)}
    return out


def slow_training(name: str) -> dict[str, torch.Tensor]:
    """The same steps by loops over clips and rows, in float64 and without a dictionary."""
    settings = dict(SETTINGS[name])
    optimiser = settings.get("optimiser", "momentum")
    rate = settings.get("rate", 0.3)
    counts = settings.get("rows", ROWS)
    start = contents(make(Comm(), rows=counts))
    tables = {kind: [row.double() for row in rows] for kind, rows in start.items()}
    memory = {
        kind: [{"t": 0, "v": 0, "m": 0, "s": 0} for _ in rows] for kind, rows in start.items()
    }
    for step in range(STEPS):
        static, transient, target = batch(step, counts)
        grads: dict = {"static": {}, "transient": {}}
        for b in range(BATCH):
            s, t = int(static[b]), int(transient[b])
            of_s = sum(0.5 * 2 * (tables["static"][s] - target[b, f, :4]) for f in range(3))
            of_t = 0.5 * 2 * (tables["transient"][t] - target[b, :, 4:])
            grads["static"][s] = grads["static"].get(s, 0) + of_s
            grads["transient"][t] = grads["transient"].get(t, 0) + of_t
        for kind, of_rows in grads.items():
            for row, grad in of_rows.items():
                x, state = tables[kind][row], memory[kind][row]
                if optimiser == "momentum":
                    state["v"] = 0.9 * state["v"] + grad
                    x = x - rate * state["v"]
                else:
                    state["t"] += 1
                    state["m"] = 0.9 * state["m"] + 0.1 * grad
                    state["s"] = 0.999 * state["s"] + 0.001 * grad * grad
                    first = state["m"] / (1 - 0.9 ** state["t"])
                    second = state["s"] / (1 - 0.999 ** state["t"])
                    x = x - rate * first / (second.sqrt() + 1e-8)
                tables[kind][row] = x / x.norm(dim=-1, keepdim=True).clamp(min=1)
    return {kind: torch.stack(rows).float() for kind, rows in tables.items()}


@pytest.fixture(scope="module")
def alone() -> dict:
    return run_ranks(trained, 1)[0]


@pytest.mark.parametrize("name", ["momentum", "adam", "one row"])
def test_training_follows_the_slow_loop(name: str, alone: dict) -> None:
    """Six steps with duplicates give the rows of a loop over clips, optimiser state included."""
    for kind, rows in slow_training(name).items():
        torch.testing.assert_close(alone[name]["last"][kind], rows, rtol=1e-4, atol=1e-5)


@pytest.mark.ranks
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_agree_with_one(world: int, alone: dict) -> None:
    """Any number of ranks gives one rank's rows, bit for bit, on every rank."""
    for out in run_ranks(trained, world):
        for name, states in alone.items():
            for when, tables in states.items():
                for kind, rows in tables.items():
                    assert torch.equal(out[name][when][kind], rows), (name, when, kind)


def test_untouched_rows_do_not_move(alone: dict) -> None:
    """Momentum and Adam leave a row alone that no clip named; damaged clips touch nothing."""
    named = torch.cat([batch(step, ROWS)[1] for step in range(STEPS)]).unique()
    still = torch.ones(ROWS["transient"], dtype=torch.bool)
    still[named] = False
    assert still.any()
    for name in ("momentum", "adam"):
        first, last = alone[name]["first"]["transient"], alone[name]["last"]["transient"]
        assert torch.equal(first[still], last[still])
        assert (first[named] != last[named]).flatten(1).any(1).all()
    moved = (alone["kept"]["first"]["transient"] != alone["kept"]["last"]["transient"]).flatten(1)
    assert moved.any(1).nonzero().flatten().tolist() == [0, 2, 4, 6]


def test_codes_stay_in_the_unit_ball(alone: dict) -> None:
    """Fresh and trained codes have norms of at most one, and fresh ones fill the ball's rim."""
    for states in (alone[name] for name in SETTINGS):
        assert states["first"]["transient"].norm(dim=-1).max() <= 1 + 1e-6
    assert alone["momentum"]["last"]["static"].norm(dim=-1).max() <= 1 + 1e-6
    values = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    torch.testing.assert_close(unit_ball(values), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


def test_a_computed_start_is_taken(alone: dict) -> None:
    """Rank 0's values land in the rows of a table, in the unit ball, sharded or replicated."""
    for kib in (0, 64):
        assert torch.equal(
            alone[f"assigned {kib}"]["last"]["transient"], unit_ball(computed_start())
        )
    assert torch.equal(alone["assigned 0"]["last"]["static"], alone["momentum"]["first"]["static"])


def test_clip_rank_is_kept(alone: dict) -> None:
    """With `scope: clip` the moved rows have the asked rank."""
    named = torch.cat([batch(step, ROWS)[1] for step in range(STEPS)]).unique()
    values = torch.linalg.svdvals(alone["clip rank"]["last"]["transient"][named])
    assert (values[:, 1:] < 1e-5).all()
    assert (values[:, 0] > 0.1).all()


def test_rows_outside_the_table_are_refused() -> None:
    """An absent label (-1) and a row beyond the table are named, not read."""
    dictionary = make(Comm())
    for row in (-1, ROWS["static"]):
        with pytest.raises(UserError, match="static table, which has 5 rows"):
            dictionary.gather(torch.tensor([row]), torch.tensor([0]))
    with pytest.raises(UserError, match="5 rows but 4 keys"):
        make(Comm(), rows={"static": 5, "transient": 3}).tables["static"].__class__(
            dictionary.tables["static"].spec, np.arange(4), Comm(), torch.device("cpu")
        )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"static_key": "person"}, "latents.static_key: 'person' is none of dataset, action"),
        ({"optimiser": "sgd"}, "latents.optimiser"),
        ({"residence": "tape"}, "latents.residence"),
        ({"transient": 0}, "latents.transient"),
        ({"rate": 0.0}, "latents.rate"),
        ({"momentum": 1.0}, "latents.momentum"),
        ({"betas": (0.9, 1.5)}, "latents.betas"),
    ],
)
def test_settings_are_checked(setting: dict, message: str) -> None:
    """A setting out of range is named with its place in the configuration."""
    with pytest.raises(UserError, match=message):
        LatentsConfig(**setting)


def test_promise_counts_the_fields() -> None:
    """The promise for full golf holds value and momentum, on the place where rows live; on disk a
    row's 25,600 bytes take seven pages."""
    config = LatentsConfig(
        transient=200, residence="disk", static_key="dataset", optimiser="momentum"
    )
    promise = LatentDictionary.promise_bytes(
        config, static_rows=1, transient_rows=583_508, frames=16, world=2
    )
    table = 583_508 * 7 * 4096 // 2
    assert table <= promise.disk <= table * 1.01
    assert promise.host < 300 << 20
    assert promise.device < 1 << 20


def test_an_empty_batch_moves_nothing() -> None:
    """A rank without clips gathers empty codes and takes the same calls."""
    dictionary = make(Comm())
    before = contents(dictionary)
    none = torch.empty(0, dtype=torch.int64)
    latents = dictionary.gather(none, none)
    assert latents.transient_BTM.shape == (0, 3, 6)
    dictionary.accumulate(latents)
    dictionary.step()
    dictionary.project_()
    assert all(torch.equal(rows, before[kind]) for kind, rows in contents(dictionary).items())
    assert len(keys_of(range(5), "static")) == 5
