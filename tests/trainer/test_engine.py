"""The step: micro-batches, frozen networks, what is sent, and the ways to a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from data_shards.errors import UserError
from tests.support.engines import everything, join, make, steps
from tests.support.footage import tiny_set
from tests.support.ranks import run_ranks
from trainer import objective
from trainer.comm import Comm
from trainer.config import resolve
from trainer.draws import Draw
from trainer.engine import Engine
from trainer.losses import Triplets
from trainer.networks.generator import Generator
from trainer.parallel import micro_batches
from trainer.schedule import EVERYTHING, GENERATOR, LATENT

PAPER = ("latents.optimiser=momentum", "latents.rate=1.0")
COMPILED = {
    "folder": (),
    "pyramid": ("loss.regression=pyramid", "schedule.frames=2"),
    "authors": ("loss.negatives=semi_hard", "loss.triplet_on=motion", "loss.squared=false"),
    "batch norm": ("networks.norm=batch",),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_set(tmp_path_factory.mktemp("data"), frames=4, size=32))


def test_micro_batches_give_what_the_whole_batch_gives(data: str) -> None:
    """Five clips at once, or in 2, 3, 5 and 8 parts (some empty): losses, weights and rows."""
    words = ("schedule.clips=5", *PAPER)
    whole = make(data, words)
    losses = steps(whole, 0, 5)
    expected = everything(whole.engine)
    for count in (2, 3, 5, 8):
        made = make(data, (*words, f"train.accumulate={count}"))
        assert steps(made, 0, 5) == pytest.approx(losses, rel=1e-5)
        for name, tensor in everything(made.engine).items():
            assert torch.allclose(tensor, expected[name], atol=1e-4), (count, name)


def test_micro_batches_hold_every_clip_once() -> None:
    """In order, as many as asked for, and no two differ by more than one clip."""
    for clips in range(7):
        for count in range(1, 9):
            parts = [range(clips)[part] for part in micro_batches(clips, count)]
            sizes = [len(part) for part in parts]
            assert [clip for part in parts for clip in part] == list(range(clips))
            assert len(parts) == count and max(sizes) - min(sizes) <= 1


def test_micro_batches_with_batch_norm_are_refused() -> None:
    """Its statistics would be those of a micro-batch."""
    with pytest.raises(UserError, match=r"train.accumulate: batch normalisation would see"):
        resolve(["train.accumulate=2", "networks.norm=batch"])


def sent_by_stage(comm: Comm, data: str, way: str) -> dict[str, Any]:
    """Bytes of gradients and of rows that a step of each stage sends, and which gradients exist."""
    join(comm)
    engine, stream = (made := make(data, (*words_of(way), *PAPER))).engine, made.stream
    networks, found = engine.networks, {}
    comm = engine.ranks.comm
    sizes = {
        group: sum(4 * p.numel() for p in params)
        for group, params in (("gamma", networks.gamma()), ("theta", networks.theta()))
    }
    for stage in (GENERATOR, LATENT, LATENT._replace(name="together", moves=EVERYTHING)):
        for step in range(2):  # the first of a stage may rebuild DDP's buckets
            comm.bytes_sent.clear()
            engine.measure(next(stream), step=step, moves=stage.moves)
            grads = {
                "gamma": any(p.grad is not None for p in networks.gamma()),
                "theta": any(p.grad is not None for p in networks.theta()),
            }
            engine.update(step=step, moves=stage.moves, factor=1.0)
        found[stage.name] = {"sent": dict(comm.bytes_sent), "grads": grads}
    return {"sizes": sizes, "stages": found}


def words_of(way: str) -> tuple[str, str]:
    return "schedule.clips=4", f"train.gradients={way}"


@pytest.mark.ranks
@pytest.mark.parametrize("way", ["memory", "send"])
def test_a_frozen_network_costs_no_gradient_and_no_byte(data: str, way: str) -> None:
    """What a stage sends is the gradient of what it moves, and rows; nothing else is computed."""
    ranks = run_ranks(sent_by_stage, 2, data, way)
    for found in ranks:
        sizes, stages = found["sizes"], found["stages"]
        for name, groups in {
            "generator": ("gamma",), "latents": ("theta",), "together": ("gamma", "theta"),
        }.items():  # fmt: skip
            # Each of two ranks sends as much as the gradients take, or hands over its share.
            given = [rank["stages"][name]["sent"]["gradients"] for rank in ranks]
            whole = sum(sizes[group] for group in groups)
            assert given == [whole, whole] if way == "send" else sum(given) == whole
            assert stages[name]["grads"] == {g: g in groups for g in ("gamma", "theta")}
        # All but gradients and the sums of their norms.
        rows = [
            sum(size for kind, size in found["sent"].items() if kind not in ("gradients", "sum"))
            for found in stages.values()
        ]
        assert rows[0] < rows[1] == rows[2]


@pytest.mark.parametrize("words", COMPILED.values(), ids=COMPILED)
def test_a_compiled_step_learns_the_same(data: str, words: tuple[str, ...]) -> None:
    """networks.compile goes through torch.compile, generator and objective are traced whole and
    once, and names of weights stay."""
    words = ("schedule.clips=3", *PAPER, *words)
    plain = make(data, words)
    losses = steps(plain, 0, 4)
    torch._dynamo.reset()
    counters.clear()
    traced = make(data, (*words, "networks.compile=aot_eager"))
    assert steps(traced, 0, 4) == pytest.approx(losses, rel=1e-4)
    assert not counters["graph_break"] and counters["stats"]["unique_graphs"] == 2
    expected = everything(plain.engine)
    for name, tensor in everything(traced.engine).items():
        assert torch.allclose(tensor, expected[name], atol=1e-4), name


def test_what_cuda_graphs_cannot_do_is_refused(data: str) -> None:
    """Without a GPU, and where gradients of several micro-batches would have to be kept."""
    with pytest.raises(UserError, match=r"^networks.compile: graphs leave gradients where"):
        resolve(["networks.compile=graphs", "train.accumulate=2"])
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match=r"^networks.compile: graphs needs a GPU; set "):
            make(data, ("networks.compile=graphs",))


def test_generator_and_objective_read_nothing_back() -> None:
    """On a GPU that is only thought, no value is asked for: they can be captured. (Of the backward
    pass tracing says so, in the test above.)"""
    config = resolve(["networks.channels=8", "loss.negatives=semi_hard", "loss.regression=pyramid"])
    place = torch.device("cuda")
    with FakeTensorMode(), place:
        generator = Generator(config.networks, latent=16, size=32)
        codes = torch.randn(3, 16, 10, requires_grad=True)
        frame = torch.zeros(3, 16, dtype=torch.int64)
        triplets = Triplets(frame, frame, frame, torch.ones(3, 16, dtype=torch.bool))
        drawn = Draw(None, torch.zeros(3, dtype=torch.int64), triplets)
        fake, real = (
            generator(torch.randn(6, 16)).unflatten(0, (3, 2)),
            torch.zeros(3, 2, 3, 32, 32),
        )
        valid = torch.ones(3, dtype=torch.bool)
        found = objective.terms(fake, real, codes, drawn, valid, config=config.loss, batch=3)
        assert found.total.device.type == "cuda"
        with pytest.raises(DataDependentOutputException):
            float(found.total.detach())


def test_footage_held_on_the_device_gives_the_same_batches(data: str) -> None:
    """Batches gathered where the footage lies are those gathered in memory, bit for bit."""
    here, there = make(data, ("schedule.clips=5",)), make(data, ("schedule.clips=5",))
    assert there.stream.to_(there.engine.ranks.device)
    assert steps(here, 0, 3) == steps(there, 0, 3)


def checkpoint_of(engine: Engine, state: dict[str, Any]) -> SimpleNamespace:
    """What is read of a checkpoint of this moment, with `state` beside it."""
    copies = {
        kind: {name: tensor.clone() for name, tensor in tensors.items()}
        for kind, tensors in engine.common().items()
    }
    rows = {name: tensor.clone() for name, tensor in engine.own()}
    return SimpleNamespace(state=state, common=copies.__getitem__, read=rows.__getitem__)


def test_an_engine_that_goes_back_is_as_it_was(data: str) -> None:
    """Put back in place to before its first step (moments, average, directions), it repeats every
    bit."""
    low_rank = ("latents.low_rank.rank=2", "latents.low_rank.scope=dictionary")
    made = make(data, (*low_rank, "latents.low_rank.every=2", "schedule.clips=4"))
    engine = made.engine
    saved = checkpoint_of(engine, engine.identity())
    batches = [next(made.stream) for _ in range(5)]
    losses = steps(made._replace(stream=iter(batches)), 0, 5)
    expected = everything(engine)
    assert engine.dictionary.basis is not None
    engine.restore(saved)
    assert engine.dictionary.basis is not None and engine.dictionary.steps == 0
    assert torch.equal(engine.dictionary.basis.vectors_MR, saved.read("dictionary.basis"))
    assert not engine.optimiser.state()
    assert steps(made._replace(stream=iter(batches)), 0, 5) == losses
    again = everything(engine)
    assert [name for name in expected if not torch.equal(expected[name], again[name])] == []


def test_rollbacks_are_refused_with_deepspeed(data: str) -> None:
    """It would add the gradients of a step that was not taken to those of the next."""
    made = make(data, ())
    with pytest.raises(UserError, match=r"train\.rollback: DeepSpeed"):
        Engine(
            resolve([f"data.manifest={data}", "train.rollback=1"]),
            ranks=made.engine.ranks._replace(zero=True),
            networks=made.engine.networks,
            dictionary=made.engine.dictionary,
        )


def test_a_run_does_not_go_on_with_another_layout(data: str) -> None:
    """A video of one clip has that clip's key: one such row of thousands would be found in the
    other table, and all others begin anew, unsaid. Checkpoints that do not tell theirs are taken
    as they were."""
    engine = make(data, ("schedule.clips=4", "latents.transient_key=video")).engine
    silent = {name: value for name, value in engine.identity().items() if not name.endswith("key")}
    engine.restore(checkpoint_of(engine, silent))
    state = engine.identity() | {"transient_key": "clip"}
    message = (
        r"^latents\.transient_key: the run was trained with clip and cannot go on with video; "
    )
    with pytest.raises(UserError, match=message):
        engine.restore(SimpleNamespace(state=state))


def test_a_run_of_the_older_order_does_not_go_on(data: str) -> None:
    """Its steps mean other clips: one line says so, before anything is read."""
    engine = make(data, ("schedule.clips=4",)).engine
    state = {name: value for name, value in engine.identity().items() if name != "order"}
    message = r"^order of clips: the run was trained with 1 and cannot go on with 2; choose another"
    with pytest.raises(UserError, match=message):
        engine.restore(SimpleNamespace(state=state))
