"""Frechet algebra against closed forms, LPIPS against a slow loop, programs only when allowed."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from data_shards.errors import UserError
from tests.support.outputs import TinyRun, tiny_manifest
from trainer import distances, evaluate, fvd, lpips, render
from trainer.frechet import Gaussian, frechet_distance, gaussian_of
from trainer.vgg import Vgg


def random_covariance(width: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    root = torch.randn(width, width, generator=draw, dtype=torch.float64)
    return root @ root.T / width


def test_the_distance_of_diagonal_gaussians_has_a_closed_form() -> None:
    """|m1 - m2|^2 + sum of (s1 - s2)^2; zeros among the deviations are no trouble."""
    draw = torch.Generator().manual_seed(0)
    means = torch.randn(2, 5, generator=draw, dtype=torch.float64)
    sds = torch.tensor([[1.0, 2, 0, 3, 0.5], [2, 2, 1, 0, 0]], dtype=torch.float64)
    pair = [Gaussian(m, torch.diag(s.square())) for m, s in zip(means, sds, strict=True)]
    expected = (means[0] - means[1]).square().sum() + (sds[0] - sds[1]).square().sum()
    assert frechet_distance(*pair) == pytest.approx(float(expected))


def test_the_distance_is_that_of_the_eigenvalues_of_the_product() -> None:
    """tr (C1 C2)^(1/2) by numpy's eigenvalues of the unsymmetric product; symmetric; 0 if equal."""
    first, second = random_covariance(6, 1), random_covariance(6, 2)
    zero = torch.zeros(6, dtype=torch.float64)
    roots = np.sqrt(np.linalg.eigvals((first @ second).numpy()).real.clip(0))
    expected = float(first.trace() + second.trace()) - 2 * roots.sum()
    pair = Gaussian(zero, first), Gaussian(zero, second)
    assert frechet_distance(*pair) == pytest.approx(expected)
    assert frechet_distance(*pair[::-1]) == pytest.approx(expected)
    assert frechet_distance(pair[0], pair[0]) == pytest.approx(0, abs=1e-9)
    scaled = Gaussian(zero, 4 * first)
    assert frechet_distance(pair[0], scaled) == pytest.approx(float(first.trace()))


def test_fewer_rows_than_features_are_no_trouble() -> None:
    """The covariance is numpy's; a shift of all rows costs its squared length and nothing else."""
    rows = torch.randn(4, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = gaussian_of(rows)
    assert np.allclose(found.covariance_KK, np.cov(rows.numpy().T))
    assert frechet_distance(found, gaussian_of(rows + 2.0)) == pytest.approx(9 * 4.0)
    with pytest.raises(ValueError, match="two rows"):
        gaussian_of(rows[:1])


@pytest.fixture(scope="module")
def lpips_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the right names and shapes."""
    torch.manual_seed(0)
    layers = torchvision.models.vgg16().features[:30]
    weights = {f"features.{k}": v for k, v in layers.state_dict().items()}
    weights |= {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1)
                for i, w in enumerate(lpips.WIDTHS)}  # fmt: skip
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_file(weights, path)
    return path


def test_lpips_is_the_sum_over_layers_of_weighted_differences(lpips_file: Path) -> None:
    """One pair, pixel by pixel, through torchvision's network; equal frames have distance 0."""
    opened = lpips.open_lpips(lpips_file)
    draw = np.random.default_rng(0)
    pair = torch.from_numpy(draw.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8))
    found = lpips.distances(opened, pair, pair.flip(0))
    assert found[0] == pytest.approx(float(found[1]), rel=1e-4) and found[0] > 0
    assert not lpips.distances(opened, pair, pair).any()
    shift, scale = (torch.tensor(x).view(3, 1, 1) for x in (lpips.SHIFT, lpips.SCALE))
    codes = [((p.permute(2, 0, 1) / 127.5 - 1 - shift) / scale)[None] for p in pair]
    expected, layer = 0.0, 0
    for index, module in enumerate(opened.network):
        codes = [module(code) for code in codes]
        if index in lpips.LAYERS:
            sides = range(codes[0].shape[2])
            for y, x in itertools.product(sides, sides):
                unit = [code[0, :, y, x] / code[0, :, y, x].norm() for code in codes]
                apart = (unit[0] - unit[1]).square() @ opened.weights[layer]
                expected += float(apart) / len(sides) ** 2
            layer += 1
    assert float(found[0]) == pytest.approx(expected, rel=1e-3)


def test_weights_of_lpips_are_pinned_and_checked(lpips_file: Path, tmp_path: Path) -> None:
    """Another hash, a missing file, a damaged one and a lack of layers are told in a line."""
    digest = hashlib.sha256(lpips_file.read_bytes()).hexdigest()
    assert lpips.open_lpips(lpips_file, sha256=digest.upper()).sha256 == digest
    with pytest.raises(UserError, match="expected 00"):
        lpips.open_lpips(lpips_file, sha256="00")
    with pytest.raises(UserError, match="No such file"):
        lpips.open_lpips(tmp_path / "none")
    (tmp_path / "damaged").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a readable safetensors"):
        lpips.open_lpips(tmp_path / "damaged")
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(UserError, match=r"lacks features\.0\.weight .*IMAGENET1K_V1"):
        lpips.open_lpips(tmp_path / "other")


class Means(torch.nn.Module):
    """Stands for I3D: the mean colour of the first and of the last frame."""

    def forward(
        self, videos: torch.Tensor, rescale: bool = False, resize: bool = False,
        return_features: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        return torch.cat([videos[:, :, 0].mean((2, 3)), videos[:, :, -1].mean((2, 3))], dim=1)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A TorchScript file and its SHA-256."""
    path = tmp_path_factory.mktemp("program") / "means.pt"
    torch.jit.save(torch.jit.script(Means()), str(path))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_program_is_run_only_where_it_is_allowed_and_the_one_that_is_meant(
    program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the word, without a hash, with another hash: nothing is even loaded."""
    path, digest = program
    monkeypatch.setattr(torch.jit, "load", lambda *a, **k: pytest.fail("loaded"))
    for message, words in {
        "--allow-code": {"sha256": digest, "allow_code": False},
        "--fvd-sha256": {"sha256": "", "allow_code": True},
        "expected": {"sha256": "0" * 64, "allow_code": True},
    }.items():
        with pytest.raises(UserError, match=message):
            fvd.open_detector(path, **words)
    monkeypatch.undo()
    assert fvd.open_detector(path, sha256=digest, allow_code=True).sha256 == digest
    other = tmp_path / "other"
    other.write_bytes(b"no program")
    with pytest.raises(UserError, match="not a TorchScript file"):
        wrong = hashlib.sha256(b"no program").hexdigest()
        fvd.open_detector(other, sha256=wrong, allow_code=True)


def tiny(tmp_path: Path, *, noise: int) -> TinyRun:
    return TinyRun(tmp_path / "run", tiny_manifest(), noise=noise)


def extra(run: TinyRun, wanted: distances.Wanted, **more) -> dict[str, evaluate.Score]:
    clips, more = list(range(run.manifest.clips)), {"vgg": None, "chosen": "all", **more}
    found = distances.extra_scores(run, clips, wanted, **more)  # pyright: ignore
    return {score.name: score for score in found}


def test_fvd_of_a_run_is_the_distance_of_its_features(program, tmp_path: Path) -> None:
    """Against features taken by hand; 0 where footage and reconstructions are the same."""
    detector = fvd.open_detector(program[0], sha256=program[1], allow_code=True)
    run, wanted = tiny(tmp_path, noise=30), distances.Wanted(fvd=detector)
    clips = list(range(6))
    real, fake = render.real_clips(run, clips), render.render_clips(run, clips)  # pyright: ignore
    codes = [v[:, [0, -1]].astype(float).mean((2, 3)).reshape(6, 6) for v in (real, fake)]
    expected = frechet_distance(*(gaussian_of(torch.from_numpy(code)) for code in codes))
    score = extra(run, wanted)["FVD"]
    assert score.value == pytest.approx(expected, rel=1e-4) and expected > 100
    assert score.protocol["program SHA-256"] == program[1]
    assert extra(tiny(tmp_path, noise=0), wanted)["FVD"].value == pytest.approx(0, abs=1e-3)
    with pytest.raises(UserError, match="at least two videos"):
        evaluate.evaluate(run, videos=1, wanted=wanted)  # pyright: ignore
    rows = np.array([0, 0, 1, 2]), np.array([1, 2, 3, 3])
    random = extra(run, wanted, pairs=rows)["FVD"]
    assert "4 random pairs" in random.protocol["videos"] and random.value != score.value


def test_vgg_frechet_has_a_name_of_its_own_and_lpips_a_card(lpips_file: Path, tmp_path) -> None:
    """Equal sets have no distance, brighter footage has one; each names its weights."""
    opened = lpips.open_lpips(lpips_file)
    network = Vgg(opened.network[:16], "f" * 64)  # pyright: ignore
    wanted = distances.Wanted(lpips=opened, frechet=True)
    runs = [tiny(tmp_path, noise=noise) for noise in (0, 60)]
    equal, other = (extra(run, wanted, vgg=network) for run in runs)
    assert set(equal) == {"LPIPS", "VGG Frechet, frames", "VGG Frechet, changes"}
    assert equal["LPIPS"].value == 0 < other["LPIPS"].value
    assert abs(equal["VGG Frechet, frames"].value) < 1e-6 < other["VGG Frechet, frames"].value
    assert other["LPIPS"].protocol["weights SHA-256"] == opened.sha256
    assert "not FID" in other["VGG Frechet, frames"].protocol["definition"]
    with pytest.raises(UserError, match="needs VGG16"):
        extra(runs[0], distances.Wanted(frechet=True))


def test_the_command_line_refuses_a_program_in_one_line(program, tmp_path: Path, capsys) -> None:
    """Exit code 2 before the run is even looked at."""
    assert evaluate.main([str(tmp_path), "--fvd", str(program[0])]) == 2
    error = capsys.readouterr().err
    assert "--allow-code" in error and error.count("\n") == 1
