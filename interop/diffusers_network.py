"""The configurations of diffusers' `UNet2DModel`, and the networks here that they describe."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scoresde.models import ScoreModel, UNet
from scoresde.sde import describe

from .unet import parts

# Fields of `UNet2DModel` with their default values and their types.
FIELDS: dict[str, tuple[Any, Any]] = {
    "sample_size": (None, object),
    "in_channels": (3, int),
    "out_channels": (3, int),
    "center_input_sample": (False, bool),
    "time_embedding_dim": (None, int | None),
    "flip_sin_to_cos": (True, bool),
    "down_block_types": (("DownBlock2D", *["AttnDownBlock2D"] * 3), list | tuple),
    "up_block_types": ((*["AttnUpBlock2D"] * 3, "UpBlock2D"), list | tuple),
    "block_out_channels": ((224, 448, 672, 896), list | tuple),
    "layers_per_block": (2, int),
    "mid_block_scale_factor": (1, int | float),
    "dropout": (0.0, int | float),
    "attention_head_dim": (8, int | None),
    "norm_num_groups": (32, int | None),
    "attn_norm_num_groups": (None, int | None),
    "norm_eps": (1e-5, float),
    "add_attention": (True, bool),
    "num_train_timesteps": (None, object),
}
# Further fields with the values that are supported; the first is the default.
CHOICES: dict[str, tuple[Any, ...]] = {
    "mid_block_type": ("UNetMidBlock2D",),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default",),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "time_embedding_type": ("positional", "fourier"),
    "freq_shift": (0, 1),
    "downsample_padding": (1, 0),
}
DEFAULTS = {name: default for name, (default, _) in FIELDS.items()}
DEFAULTS |= {name: allowed[0] for name, allowed in CHOICES.items()}
# Our options, and their fields with the same value.
RENAMED = {
    "num_res_blocks": "layers_per_block",
    "attn_middle": "add_attention",
    "head_dim": "attention_head_dim",
    "dropout": "dropout",
    "embedding_type": "time_embedding_type",
    "frequency_shift": "freq_shift",
    "norm_eps": "norm_eps",
}
# Options that all networks of a layout have in common: of DDPM's, and of NCSN++'s.
PLAIN = {
    "resblock_type": "ddpm",
    "resamp_with_conv": True,
    "skip_rescale": False,
    "fir": False,
    "progressive": "none",
    "progressive_input": "none",
}
SKIP = {
    "resblock_type": "biggan",
    "skip_rescale": True,
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "progressive": "output_skip",
    "progressive_input": "input_skip",
    "progressive_combine": "sum",
    "max_groups": 32,
    "channels_per_group": 4,
    "attn_up": "last",
}


def build(given: Mapping[str, Any], source: object) -> UNet:
    """The network of a configuration, on the meta device.

    Raises:
        ValueError: A field has a value that is not supported; the message names it.
    """
    config = DEFAULTS | {k: v for k, v in given.items() if not k.startswith("_")}
    _check(config, given, source)
    widths = list(config["block_out_channels"])
    skip = "Skip" in config["down_block_types"][0]
    attend = [level for level, kind in enumerate(config["down_block_types"]) if "Attn" in kind]
    size = config["sample_size"]
    height, width = size if isinstance(size, list | tuple) else (size, size)
    options: dict[str, Any] = {
        "shape": (config["in_channels"], height, width),
        "nf": widths[0],
        "ch_mult": [one // widths[0] for one in widths],
        "attn_levels": attend,
        "out_channels": config["out_channels"],
    }
    options |= {ours: config[theirs] for ours, theirs in RENAMED.items()}
    if skip:
        options |= SKIP
    else:
        options |= PLAIN | {
            "attn_up": "each",
            "pad_symmetric": config["downsample_padding"] == 1,
            "channels_per_group": 1,
            "max_groups": config["norm_num_groups"],
        }
    with torch.device("meta"):
        net = UNet(**options)
        others = {name: g for name, g in _groups(net, config) if _norm(net, name).num_groups != g}
        return UNet(**options, groups=others) if others else net


def config(model: ScoreModel) -> dict[str, Any]:
    """The configuration of a model's network.

    Raises:
        ValueError: `UNet2DModel` has no such network; the message names the option.
    """
    net = model.net
    if not isinstance(net, UNet) or model.features is not None:
        raise ValueError("diffusers' UNet2DModel is a U-Net of images alone")
    options = describe(net)
    skip = options["progressive"] == "output_skip"
    if not options["noise_conditional"]:
        raise ValueError("diffusers' UNet2DModel always has a noise label (noise_conditional=true)")
    want = net.shape[0] * (2 if model.learned_variance else 1)
    if net.out_channels != want:
        raise ValueError(f"the network has {net.out_channels} output channels, expected {want}")
    named = "NCSN++ (SkipDownBlock2D)" if skip else "DDPM (DownBlock2D)"
    for name, only in (SKIP if skip else PLAIN).items():
        if options[name] != only and name not in ("channels_per_group", "max_groups"):
            raise ValueError(f"diffusers' {named} has {name}={only}, not {options[name]}")
    if not skip and any(net.attend) and options["attn_up"] != "each":
        raise ValueError(
            f"diffusers' {named} attends after each block (attn_up=each), not the last"
        )
    if skip and net.shape[0] != 3:
        raise ValueError(f"diffusers' {named} has 3 channels in its pyramids, not {net.shape[0]}")
    size = list(net.shape[1:])
    lowest = _norm(net, "middle_0.block.branch.norm_0").num_groups
    own = None if skip and lowest == min(net.widths[-1] // 4, 32) else lowest
    fields: dict[str, Any] = DEFAULTS | {
        "sample_size": size[0] if size[0] == size[1] else size,
        "in_channels": net.shape[0],
        "out_channels": net.out_channels,
        "center_input_sample": model.data_range == (0.0, 1.0),
        "flip_sin_to_cos": False,
        "block_out_channels": net.widths,
        "mid_block_scale_factor": math.sqrt(2) if skip else 1,
        "downsample_padding": int(net.pad_symmetric),
        "norm_num_groups": own,
        "attn_norm_num_groups": _middle_groups(net, lowest),
    }
    fields |= {theirs: options[ours] for ours, theirs in RENAMED.items()}
    kind = "Skip" if skip else ""
    down = [f"{'Attn' if on else ''}{kind}DownBlock2D" for on in net.attend]
    up = [f"{'Attn' if on else ''}{kind}UpBlock2D" for on in reversed(net.attend)]
    fields |= {"down_block_types": down, "up_block_types": up, "_class_name": "UNet2DModel"}
    for name, groups in _groups(net, fields):
        norm = _norm(net, name)
        if norm.num_groups != groups:
            raise ValueError(
                f"diffusers' {named} normalizes {name} of {norm.num_channels} channels in {groups} "
                f"groups, this network in {norm.num_groups}"
            )
    return fields | {"_diffusers_version": "0.35.0"}


def _check(config: Mapping[str, Any], given: Mapping[str, Any], source: object) -> None:
    if given.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"{source} is a {given['_class_name']}; only UNet2DModel is read")
    unknown = sorted(k for k in given if not k.startswith("_") and k not in DEFAULTS)
    if unknown:
        raise ValueError(f"{source} has {unknown[0]}={given[unknown[0]]}, which is not supported")
    for name, allowed in CHOICES.items():
        if config[name] not in allowed:
            listed = " or ".join(map(str, allowed))
            raise ValueError(f"{source} has {name}={config[name]}; only {listed} is read")
    for name, (_, kind) in FIELDS.items():
        if not isinstance(config[name], kind) or (
            kind is not bool and isinstance(config[name], bool)
        ):
            raise ValueError(f"{source} has {name}={config[name]!r}, of a wrong type")
    if not config["block_out_channels"] or min(config["block_out_channels"]) < 1:
        raise ValueError(f"{source} has block_out_channels={config['block_out_channels']}")
    widths, down = list(config["block_out_channels"]), list(config["down_block_types"])
    up = list(config["up_block_types"])
    if len(widths) != len(down) or len(widths) != len(up):
        raise ValueError(f"{source} has {len(widths)} widths for {len(down)} and {len(up)} blocks")
    if any(one % widths[0] for one in widths):
        raise ValueError(f"{source} has block_out_channels={widths}, no multiples of the first")
    expected = config["time_embedding_dim"] or 4 * widths[0]
    if expected != 4 * widths[0]:
        raise ValueError(
            f"{source} has time_embedding_dim={expected}; only {4 * widths[0]} is read"
        )
    skip = ["Skip" in kind for kind in (*down, *up)]
    kinds = [f"{'Attn' if 'Attn' in kind else ''}{'Skip' if skip[0] else ''}" for kind in down]
    fits = down == [f"{kind}DownBlock2D" for kind in kinds]
    if not fits or up != [f"{kind}UpBlock2D" for kind in reversed(kinds)]:
        raise ValueError(
            f"{source} has {', '.join(down)} and {', '.join(up)}; supported are DownBlock2D and "
            "AttnDownBlock2D, or SkipDownBlock2D and AttnSkipDownBlock2D, and the same UpBlocks"
        )
    scale = math.sqrt(2) if skip[0] else 1
    if abs(config["mid_block_scale_factor"] - scale) > 1e-3:
        raise ValueError(
            f"{source} has mid_block_scale_factor={config['mid_block_scale_factor']}; "
            f"with these blocks only {scale:.4g} is read"
        )


def _groups(net: UNet, config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Number of groups of each normalization in diffusers, by its name in our network."""
    fixed, skip = config["norm_num_groups"], "Skip" in config["down_block_types"][0]

    def quarter(channels: int) -> int:
        return min(channels // 4, 32)

    lowest = fixed or quarter(net.widths[-1])
    found: list[tuple[str, int]] = []
    for part in parts(net):
        name, module = part.name, part.module
        if part.role == "attention":
            outer = 32 if skip else fixed
            middle = config["attn_norm_num_groups"] or lowest
            found.append((f"{name}.norm", middle if part.way == "middle" else outer))
        elif hasattr(module, "branch"):
            into, out = (module.branch.norm_0.num_channels, module.branch.norm_1.num_channels)
            first, second = (quarter(into), quarter(out)) if skip else (fixed, fixed)
            if part.way == "middle":
                first = second = lowest
            elif skip and part.way == "up" and part.role == "block" and net.attend[part.level]:
                # Their AttnSkipUpBlock2D only divides the channels of the skip connection by 4.
                below = _channels_from_below(net, part.level, part.number)
                first = min(below + (into - below) // 4, 32)
            found += [(f"{name}.branch.norm_0", first), (f"{name}.branch.norm_1", second)]
        elif part.role == "norm_out":
            found.append((name, fixed or quarter(net.widths[0])))
        elif part.role == "pyramid" and part.way == "up":
            channels = net.widths[part.level]
            last = part.level == 0 and fixed
            found.append((f"{name}.head.0", fixed if last else quarter(channels)))
    return found


def _middle_groups(net: UNet, lowest: int) -> int | None:
    """Number of groups of the middle's attention, or None if it is that of its blocks."""
    attends = net.middle_0.attention is not None
    groups = _norm(net, "middle_0.attention.norm").num_groups if attends else lowest
    return None if groups == lowest else groups


def _channels_from_below(net: UNet, level: int, index: int) -> int:
    """Number of channels that a block on the way up receives from the previous block."""
    lowest = len(net.widths) - 1
    return net.widths[level] if index else net.widths[min(level + 1, lowest)]


def _norm(net: UNet, name: str) -> nn.GroupNorm:
    norm = net.get_submodule(name)
    assert isinstance(norm, nn.GroupNorm)
    return norm
