"""Shapes, counts and equalities of the two networks."""

import numpy as np
import pytest
import torch

from data_shards.errors import UserError
from trainer.networks import NavSynth, NetworksConfig, parameter_counts
from trainer.networks.config import ACTIVATIONS, INITS, NORMS, OUTPUTS


def small(size=32, **settings):
    torch.manual_seed(0)
    config = NetworksConfig(hidden=9, channels=8, **settings)
    return NavSynth(config, static=3, transient=5, size=size)


def latents(batch, frames=6):
    torch.manual_seed(1)
    return torch.randn(batch, 3), torch.randn(batch, frames, 5)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_frames_of_every_size(size):
    """The table of widths doubles 4x4 pixels up to the frame size."""
    images, motion = small(size)(*latents(2, frames=3))
    assert images.shape == (2, 3, 3, size, size) and motion.shape == (2, 3, 5)


def test_parameter_counts_of_the_paper():
    """DCGAN for 64x64 with D = 256 has 4.85 million, the GRU what its three gates and head need."""
    counts = parameter_counts(NetworksConfig(), static=206, transient=50)
    assert counts["gamma"] == pytest.approx(4.85e6, rel=2e-3)
    assert counts["theta"] == 3 * (500 * 50 + 500 * 500 + 2 * 500) + 500 * 50 + 50
    networks = small()
    own = parameter_counts(NetworksConfig(hidden=9, channels=8), static=3, transient=5, size=32)
    assert own["theta"] == sum(p.numel() for p in networks.theta())
    assert own["gamma"] == sum(p.numel() for p in networks.gamma())
    assert sum(own.values()) == sum(p.numel() for p in networks.parameters())


def test_drawn_frames_are_those_of_the_whole_clip():
    """Generating a subset gives the frames that generating all would give."""
    networks, inputs = small(), latents(3)
    frames_BF = torch.tensor([[0, 4], [5, 1], [2, 2]])
    every, motion = networks(*inputs)
    drawn, same = networks(*inputs, frames_BF)
    assert torch.equal(motion, same)
    wanted = torch.stack([every[b, frames_BF[b]] for b in range(3)])
    torch.testing.assert_close(drawn, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("drawn", [None, torch.zeros(0, 2, dtype=torch.int64)])
def test_an_empty_batch_passes_forward_and_backward(norm, drawn):
    """A rank without clips gives no frames, and zeros for every gradient."""
    networks = small(norm=norm)
    images, motion = networks(torch.zeros(0, 3), torch.zeros(0, 6, 5), drawn)
    assert images.shape == (0, 6 if drawn is None else 2, 3, 32, 32) and motion.shape == (0, 6, 5)
    (images.sum() + motion.sum()).backward()
    for parameter in networks.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


@pytest.mark.parametrize("norm", ["group", "none"])
def test_norms_without_a_batch_treat_clips_alone(norm):
    """A clip's frames do not depend on which clips share its batch."""
    networks, (static, transient) = small(norm=norm), latents(4)
    whole, _ = networks(static, transient)
    for b in range(4):
        alone, _ = networks(static[b : b + 1], transient[b : b + 1])
        torch.testing.assert_close(alone[0], whole[b], atol=1e-6, rtol=1e-5)


def test_motion_is_causal():
    """r_i depends on the latents of frames up to i and on no later one."""
    networks, (static, transient) = small(), latents(1)
    changed = transient.clone()
    changed[:, 3:] += 1
    before, after = networks(static, transient).motion_BTM, networks(static, changed).motion_BTM
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_first_layer_is_dcgans_transposed_convolution():
    """The linear map gives what ConvTranspose2d(D, C, 4) gives on a 1x1 image."""
    generator = small().generator
    weight_D44C = generator.first.weight.detach().T.unflatten(1, (4, 4, 32))
    latent = torch.randn(2, 8)
    wanted = torch.nn.functional.conv_transpose2d(
        latent[:, :, None, None], weight_D44C.permute(0, 3, 1, 2)
    )
    first = generator.first(latent).view(2, 4, 4, 32).permute(0, 3, 1, 2)
    torch.testing.assert_close(first, wanted, atol=1e-6, rtol=1e-5)


def test_motion_equals_the_gru_written_out():
    """R is the gated recurrent unit of Chung et al. (2014) with a linear head."""
    motion = small().motion.double()
    z = torch.randn(1, 4, 5, dtype=torch.float64)
    gru = {name: p.detach().numpy() for name, p in motion.gru.named_parameters()}
    h, out = np.zeros(9), []
    for i in range(4):
        x = gru["weight_ih_l0"] @ z[0, i].numpy() + gru["bias_ih_l0"]
        r = gru["weight_hh_l0"] @ h + gru["bias_hh_l0"]
        reset, update = (1 / (1 + np.exp(-(x[s] + r[s]))) for s in (slice(0, 9), slice(9, 18)))
        h = (1 - update) * np.tanh(x[18:] + reset * r[18:]) + update * h
        out.append(motion.head.weight.detach().numpy() @ h + motion.head.bias.detach().numpy())
    np.testing.assert_allclose(motion(z)[0].detach().numpy(), np.stack(out), atol=1e-12)


def test_mixed_precision_is_for_training_alone():
    """Steps multiply in bfloat16, also in the recurrence; what is judged and shown is float32."""
    networks, inputs = small(), latents(2)
    networks.mixed = True
    assert networks(*inputs).images_BFCHW.dtype == torch.bfloat16
    networks.eval()
    assert networks(*inputs).images_BFCHW.dtype == torch.float32


def test_frames_lie_in_channels_last():
    """The generator's frames are in the order that convolutions like best."""
    images = small()(*latents(2)).images_BFCHW.flatten(0, 1)
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("setting", [
    *[{"activation": name} for name in ACTIVATIONS],
    *[{"output": name} for name in OUTPUTS],
    *[{"init": name} for name in INITS],
])  # fmt: skip
def test_every_choice_trains(setting):
    """Each row of the tables gives finite frames and gradients that reach the latents."""
    networks, (static, transient) = small(**setting), latents(2)
    images, _ = networks(static.requires_grad_(), transient.requires_grad_())
    images.square().mean().backward()
    grads = [static.grad, transient.grad, *(p.grad for p in networks.parameters())]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)
    assert images.abs().max() <= 1 or setting.get("output") != "tanh"


def test_the_seed_decides_the_weights():
    """The same seed gives the same first weights."""
    first, second = small().state_dict(), small().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("settings", "named"), [
    ({"norm": "layer"}, "networks.norm"),
    ({"activation": "x"}, "networks.activation"),
    ({"output": "x"}, "networks.output"),
    ({"init": "x"}, "networks.init"),
    ({"hidden": 0}, "networks.hidden"),
    ({"channels": 25}, "networks.group_channels"),
])  # fmt: skip
def test_mistakes_name_their_setting(settings, named):
    """One line, with the dotted path."""
    with pytest.raises(UserError, match=named):
        NetworksConfig(**settings)


def test_sizes_and_generators_that_do_not_exist():
    """The error lists those that do."""
    with pytest.raises(UserError, match="32, 64, 128"):
        small(size=48)
    with pytest.raises(UserError, match="dcgan"):
        small(generator="unet")
