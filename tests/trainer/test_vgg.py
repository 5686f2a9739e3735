"""VGG16 features: the right layer, the right input, errors in one line."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torchvision.models import VGG16_Weights

from data_shards.errors import UserError
from trainer import scores, vgg

CONVS = ((0, 2), (5, 7), (10, 12, 14))
WIDTHS = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256),
          14: (256, 256)}  # fmt: skip


@pytest.fixture(scope="module")
def random_file(tmp_path_factory):
    torch.manual_seed(0)
    weights = {}
    for layer, (before, after) in WIDTHS.items():
        weights[f"features.{layer}.weight"] = torch.randn(after, before, 3, 3) * 0.03
        weights[f"features.{layer}.bias"] = torch.randn(after) * 0.1
    path = tmp_path_factory.mktemp("vgg") / "random.safetensors"
    save_file(weights, path)
    return path


def by_hand(weights, frame_HWC):
    mean = torch.tensor([123.68, 116.779, 103.939])
    x = (torch.from_numpy(frame_HWC).float() - mean).permute(2, 0, 1)[None]
    for block, layers in enumerate(CONVS):
        x = functional.max_pool2d(x, 2) if block else x
        for layer in layers:
            w, b = weights[f"features.{layer}.weight"], weights[f"features.{layer}.bias"]
            x = functional.conv2d(x, w, b, padding=1).relu()
    return x.flatten()


def frames(batch=2, count=3, size=16):
    return np.random.default_rng(0).integers(0, 256, (batch, count, size, size, 3), np.uint8)


def check_against_by_hand(file):
    videos = frames()
    net = vgg.open_vgg(file)
    found, weights = vgg.features(net, torch.from_numpy(videos)), load_file(file)
    assert found.shape == (2, 3, 256 * 4 * 4)
    for i in np.ndindex(2, 3):
        torch.testing.assert_close(found[i], by_hand(weights, videos[i]), atol=1e-2, rtol=1e-4)
    assert net.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_features_are_relu3_3(random_file):
    """Seven convolutions, two poolings, the mean colour taken off: written out by hand."""
    check_against_by_hand(random_file)


def test_motion_streams_in_batches(random_file):
    """The streamed figure is that of all features of all frames at once."""
    net, videos = vgg.open_vgg(random_file), torch.from_numpy(frames(batch=3))
    whole = scores.motion_feature(vgg.features(net, videos))
    torch.testing.assert_close(vgg.motion_of(net, videos, batch=2), whole, atol=1e-4, rtol=1e-4)


def test_the_environment_names_a_file(random_file, monkeypatch):
    """Without an argument the variable decides; nothing is downloaded."""
    monkeypatch.setenv(vgg.ENVIRONMENT, str(random_file))
    assert vgg.open_vgg().sha256 == vgg.open_vgg(random_file).sha256


def test_a_download_that_fails_says_what_to_set(tmp_path, monkeypatch):
    """Without weights and without a network: one line that names the variable."""
    monkeypatch.delenv(vgg.ENVIRONMENT, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with pytest.raises(UserError, match=vgg.ENVIRONMENT) as error:
        vgg.open_vgg()
    assert "\n" not in str(error.value)


def test_a_damaged_download_is_refused(tmp_path, monkeypatch):
    """A kept file that is not the published one is named before it is read."""
    monkeypatch.delenv(vgg.ENVIRONMENT, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "checkpoints" / VGG16_Weights.IMAGENET1K_FEATURES.url.split("/")[-1]
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"half a file")
    with pytest.raises(UserError, match="damaged"):
        vgg.open_vgg()


@pytest.mark.parametrize("content", [None, b"not weights"])
def test_unreadable_files_are_named(tmp_path, content):
    """Missing or not safetensors: one line with the path."""
    path = tmp_path / "vgg.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"vgg\.safetensors: not a readable") as error:
        vgg.open_vgg(path)
    assert "\n" not in str(error.value)


def test_unsuitable_weights_are_named(tmp_path, random_file):
    """A file of another network, or of another width, says which weight is wrong."""
    weights, path = load_file(random_file), tmp_path / "other.safetensors"
    save_file({**weights, "features.7.bias": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=r"features\.7\.bias"):
        vgg.open_vgg(path)
    save_file({"features.0.bias": weights["features.0.bias"]}, path)
    with pytest.raises(
        UserError, match=r"lacks VGG16 weights .* \(of torchvision's IMAGENET1K_FEAT"
    ):
        vgg.open_vgg(path)


def test_published_weights(vgg_file):
    """The original weights, where they are given, through the same check."""
    check_against_by_hand(vgg_file)


def test_reference_rows_on_real_footage(vgg_file, footage):
    """FCS bound and MCS of a frozen video on the Weizmann strips are the measured ones."""
    strips = sorted((footage / "weizmann_strips").glob("*/*.png"))
    if len(strips) != 27:
        pytest.skip("the 27 Weizmann strips are not in this folder of footage")
    clips = []
    for strip in strips:
        with Image.open(strip) as image:
            wide = np.asarray(image.convert("RGB"))
        clips.append(wide.reshape(64, -1, 64, 3).swapaxes(0, 1)[:16])
    videos = np.stack(clips)
    assert scores.fcs(videos).mean() == pytest.approx(0.8755, abs=5e-4)
    real = vgg.motion_of(vgg.open_vgg(vgg_file), torch.from_numpy(videos))
    assert scores.mcs(real, torch.zeros_like(real)) == pytest.approx(6.387, abs=2e-3)
