"""Training on a GPU: the numbers of a CPU, the same bits twice, other precisions, NCCL."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.words import GENTLE, NODES, PRECISIONS, STEPS
from tests.support.footage import tiny_set
from tests.support.training import ROOT, SMALL, differing, environment, tensors, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "set"
    return tiny_set(folder, identities=3, actions=2, frames=6, size=64)


def losses(run: Path) -> list[float]:
    """Total loss of every logged step."""
    return [json.loads(line)["loss/total"] for line in (run / "metrics.jsonl").open()]


def on_cpu(runs: Path, data: Path, *words: str, name: str) -> None:
    """Train where no GPU is seen."""
    line = [
        sys.executable, str(ROOT / "trainer" / "main.py"), "--runs", str(runs),
        f"data.manifest={data}", f"name={name}", *SMALL, *words,
    ]  # fmt: skip
    env = {**environment(), "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(line, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def on_gpu(runs: Path, data: Path, *words: str, name: str) -> None:
    """Train on the GPU, in this process: starting one takes longer than a test's training."""
    assert train(runs, data, *words, name=name) == 0


def two_nodes(runs: Path, data: Path, *words: str, name: str, config: str) -> list[str]:
    """Train on two nodes of one GPU each, which are this one: NCCL refuses two ranks of a machine
    on the same GPU, so each has a host of its own by name, and they talk through sockets."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    nodes = []
    for rank in range(2):
        line = [
            sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch",
            "--config_file", str(ROOT / config), "--num_machines", "2", "--num_processes", "2",
            "--machine_rank", str(rank), "--main_process_ip", "127.0.0.1",
            "--main_process_port", str(port), str(ROOT / "trainer" / "main.py"),
            "--runs", str(runs), f"data.manifest={data}", f"name={name}", *SMALL, *words,
        ]  # fmt: skip
        env = environment() | {
            "NCCL_HOSTID": f"node{rank}", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1",
        }  # fmt: skip
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        nodes.append(subprocess.Popen(line, env=env, text=True, **pipes))
    told = [node.communicate(timeout=200)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(told)
    return told


@pytest.mark.parametrize("words", STEPS.values(), ids=STEPS)
def test_a_gpu_takes_the_steps_of_a_cpu(tmp_path: Path, data: Path, words: tuple[str, ...]) -> None:
    """Losses, weights, averages, moments and rows of 20 steps, to float tolerance."""
    words = (*words, *GENTLE, "train.steps=20")
    on_cpu(tmp_path, data, *words, name="cpu")
    on_gpu(tmp_path, data, *words, name="gpu")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)
    cpu, gpu = (tensors(tmp_path / name, 20) for name in ("cpu", "gpu"))
    assert cpu.keys() == gpu.keys()
    for name, tensor in cpu.items():
        assert torch.allclose(tensor.double(), gpu[name].double(), atol=2e-3, rtol=1e-2), name


@pytest.mark.parametrize("residence", ["device", "host", "disk"])
def test_resuming_on_a_gpu_repeats_every_bit(tmp_path: Path, data: Path, residence: str) -> None:
    """Ten steps and ten more are twenty, wherever the rows live; saved in the background, too."""
    words = (
        f"latents.residence={residence}", f"latents.scratch={tmp_path / 'rows'}",
        "checkpoint.steps=5", "checkpoint.background=true",
    )  # fmt: skip
    on_gpu(tmp_path, data, *words, "train.steps=20", name="straight")
    for steps in (10, 20):
        on_gpu(tmp_path, data, *words, f"train.steps={steps}", name="halves")
    assert not differing(*(tensors(tmp_path / name, 20) for name in ("straight", "halves")))
    assert losses(tmp_path / "straight") == losses(tmp_path / "halves")


def test_a_run_moves_between_gpu_and_cpu(tmp_path: Path, data: Path) -> None:
    """A checkpoint of a GPU goes on where there is none, and the other way round."""
    words = (*GENTLE, "latents.optimiser=adam")
    on_gpu(tmp_path, data, *words, "train.steps=10", name="there")
    shutil.copytree(tmp_path / "there", tmp_path / "back")
    on_cpu(tmp_path, data, *words, "train.steps=15", name="there")
    on_gpu(tmp_path, data, *words, "train.steps=15", name="back")
    there, back = (tensors(tmp_path / name, 15) for name in ("there", "back"))
    for name, tensor in there.items():
        assert torch.allclose(tensor.double(), back[name].double(), atol=1e-3, rtol=1e-2), name
    on_gpu(tmp_path, data, *words, "train.steps=20", name="there")


@pytest.mark.parametrize(("words", "tolerance"), PRECISIONS.values(), ids=PRECISIONS)
def test_other_precisions_learn_alike(
    tmp_path: Path, data: Path, words: tuple[str, ...], tolerance: float
) -> None:
    """The loss after 60 steps is that of float32 to what the precision allows."""
    torch._dynamo.reset()
    common = ("train.steps=60", *GENTLE)
    on_gpu(tmp_path, data, *common, name="float32")
    on_gpu(tmp_path, data, *common, *words, name="other")
    one, other = (losses(tmp_path / name) for name in ("float32", "other"))
    assert other[-1] == pytest.approx(one[-1], rel=tolerance) and one[-1] < 0.8 * one[0]


@pytest.mark.parametrize("words", NODES.values(), ids=NODES)
def test_ranks_joined_by_nccl_are_one_process(
    tmp_path: Path, data: Path, words: tuple[str, ...]
) -> None:
    """Two nodes, real NCCL, a batch that two do not divide: losses, weights and rows of one."""
    words = (*words, *GENTLE, "train.steps=20", "schedule.clips=5")
    on_gpu(tmp_path, data, *words, name="alone")
    two_nodes(tmp_path, data, *words, name="two", config="accelerate_config.yaml")
    start = json.loads((tmp_path / "two" / "run.json").read_text())["starts"][0]
    assert start["world"] == 2 and start["gradients"] == "send"
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), rel=1e-3)
    alone, two = (tensors(tmp_path / name, 20) for name in ("alone", "two"))
    assert alone.keys() == two.keys()
    for name, tensor in alone.items():
        assert torch.allclose(tensor.double(), two[name].double(), atol=2e-3, rtol=1e-2), name


def test_what_is_made_of_a_run_needs_no_word_about_devices(
    tmp_path: Path, data: Path, vgg_file: Path
) -> None:
    """evaluate, fit and generate use the GPU by themselves and give a CPU's figures."""
    new = tiny_set(tmp_path / "new", identities=1, actions=2, frames=6, size=64)
    on_gpu(tmp_path, data, *GENTLE, "train.steps=40", name="run")
    found = []
    for name, devices in (("gpu", "0"), ("cpu", "")):
        run = tmp_path / name
        shutil.copytree(tmp_path / "run", run)
        for line in (
            ["trainer.evaluate", run, "--random", "4", "--vgg", vgg_file],
            ["trainer.fit", run, new, "--name", "new", "--steps", "40"],
            ["trainer.generate", run, "--out", run / "out", "random", "--count", "2"],
        ):
            ended = subprocess.run(
                [sys.executable, "-m", *map(str, line)],
                env={**environment(), "CUDA_VISIBLE_DEVICES": devices},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert ended.returncode == 0, ended.stderr
        scores = json.loads((run / "evaluation.json").read_text())["scores"]
        fitted = json.loads((run / "fitted" / "new.json").read_text())
        found.append([s["value"] for s in scores] + [v["psnr"] for v in fitted["videos"]])
    assert found[0] == pytest.approx(found[1], abs=0.05) and len(found[0]) > 6
