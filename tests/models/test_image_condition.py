"""U-Nets that see an image, its noise level and a label as their condition."""

import pytest
import torch
from torch import nn

from scoresde.conditioning import ClassifierFree
from scoresde.models import ScoreModel, UNet
from scoresde.models.image_condition import enlarged
from scoresde.sde import VP, construct, describe

SMALL = {"nf": 4, "ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}


def network(**settings):
    torch.manual_seed(0)
    net = UNet((1, 8, 8), **SMALL, **settings).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net


def inputs(count=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 1, 8, 8, generator=generator)
    return x, torch.rand(count, generator=generator), torch.rand(count, 1, 4, 4) + 0.1


@pytest.mark.parametrize("blocks", [0, 1])
@torch.no_grad()
def test_an_image_of_any_size_is_seen(blocks):
    net = network(condition_channels=1, encoder_blocks=blocks)
    x, c_noise, image = inputs()
    outputs = [net(x, c_noise, one) for one in (image, enlarged(image, (8, 8)), 2 * image)]
    assert all(output.shape == x.shape for output in outputs)
    same = torch.allclose(outputs[0], outputs[1], atol=1e-5)
    assert same == (blocks == 0)  # an encoder works at the image's own size
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-3)


@torch.no_grad()
def test_no_condition_is_zeros_of_each_sample_alone():
    net = network(condition_channels=1, classes=3, condition_noise=True, encoder_blocks=1)
    x, c_noise, image = inputs()
    condition = {"image": image, "label": torch.tensor([0, 1, 2]), "level": torch.rand(3)}
    absent = net.null_condition(condition)
    assert absent.keys() == condition.keys() and absent["image"].eq(0).all()
    without = net(x, c_noise)
    torch.testing.assert_close(net(x, c_noise, absent), without)
    mixed = {key: torch.cat([absent[key][:1], value[1:]]) for key, value in condition.items()}
    output = net(x, c_noise, mixed)
    torch.testing.assert_close(output[:1], without[:1])
    torch.testing.assert_close(output[1:], net(x, c_noise, condition)[1:])
    grey = net(x, c_noise, {"image": torch.full_like(image, 1e-8)})
    assert not torch.allclose(grey, without, atol=1e-3)  # a grey image is not none


@torch.no_grad()
def test_the_noise_level_of_the_condition_is_told():
    net = network(condition_channels=1, condition_noise=True, embedding_type="fourier")
    x, c_noise, image = inputs()
    outputs = [net(x, c_noise, {"image": image, "level": torch.full((3,), c)}) for c in (0.1, 0.7)]
    assert not torch.allclose(*outputs, atol=1e-3)


@torch.no_grad()
def test_guidance_by_an_image():
    model = ScoreModel(network(condition_channels=1), VP())
    x, t, image = inputs()
    guided = ClassifierFree(model, image, 2.0)(x, t)
    parts = [model(x, t, one) for one in (image, torch.zeros_like(image))]
    torch.testing.assert_close(guided, 2 * parts[0] - parts[1])
    part = model.given(image).rows(torch.tensor([2, 0]))
    torch.testing.assert_close(part(x[[2, 0]], t[[2, 0]]), parts[0][[2, 0]])


def test_a_description_makes_it_again():
    net = network(condition_channels=2, condition_noise=True, encoder_blocks=1)
    again = construct(describe(net))
    again.load_state_dict(net.state_dict())


def test_a_network_without_a_condition_is_what_it_was():
    assert {name.partition(".")[0] for name in network().state_dict()} == {
        *("embedding", "conv_in", "middle_0", "middle_1", "down", "up", "head")
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"condition_channels": 0}, "condition_channels must be an integer ≥ 1, got 0"),
        ({"condition_noise": True}, "condition_noise belongs to an image condition"),
        ({"encoder_blocks": 1}, "encoder_blocks belongs to an image condition"),
        (
            {"condition_channels": 1, "condition_noise": True, "noise_conditional": False},
            "use noise_conditional=true",
        ),
    ],
)
def test_impossible_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        network(**settings)


@pytest.mark.parametrize(
    ("settings", "condition", "said"),
    [
        ({}, torch.ones(3, 1, 4, 4), "takes no image as its condition"),
        ({"condition_channels": 1}, torch.ones(3, 2, 4, 4), r"must be images \(3, 1, h, w\), got"),
        ({"condition_channels": 1}, torch.tensor([0, 1, 2]), "takes no condition, got Tensor"),
        ({"condition_channels": 1}, {"level": torch.ones(3)}, "not told the noise level"),
        ({"condition_channels": 1}, {"text": torch.ones(3)}, "image, label, level, got text"),
    ],
)
def test_parts_that_a_network_does_not_take_are_refused(settings, condition, said):
    x, c_noise, _ = inputs()
    with pytest.raises(ValueError, match=said):
        network(**settings)(x, c_noise, condition)
