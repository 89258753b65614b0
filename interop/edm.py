"""Networks of EDM: the U-Nets of Song et al. in its names, and its preconditioners.

Their network assigns a change of resolution to the level that it leads to, ours to the level that
it leaves; otherwise both have the same layers. Their names contain the height of the images:

    map_noise.freqs, map_layer0, map_layer1        embedding of the noise level
    enc.32x32_conv, enc.32x32_block0, …            way down: convolution, residual blocks,
    enc.16x16_down, enc.16x16_aux_residual, …      change of resolution, input pyramid
    dec.4x4_in0, dec.4x4_in1                       middle
    dec.8x8_up, dec.32x32_block0, …                way up
    dec.32x32_aux_norm, dec.32x32_aux_conv         end, or a level of the output pyramid

A residual block has norm0, conv0, affine, norm1, conv1 and skip, and with attention norm2, qkv and
proj. Channel c of q, k and v is channel 3c, 3c + 1 and 3c + 2 of qkv.

Reference: Karras et al. 2022, arXiv:2206.00364 (table 1, appendix C.1, F).
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde.models import ScoreModel, UNet
from scoresde.models.file import whole
from scoresde.models.resample import InputSkip
from scoresde.sde import EDM, VE, VP

from .edm_files import read_contents, settings_of
from .fields import GIVE
from .table import PIXELWISE, SAME, Form, Row, layer, read
from .unet import EDM_LAYERS, Part, layers, parts

log = logging.getLogger(__name__)
_OTHERS = {
    "map_label.weight": "is conditional on a class (map_label); only unconditional ones are read",
    "out_conv.weight": "is a DhariwalUNet (ADM); of EDM's networks only SongUNet is read",
    "u": "has the preconditioner iDDPMPrecond; only those of EDM, VP and VE are read",
}


def load_edm(
    source: str | Path | Mapping[str, Tensor],
    *,
    config: Mapping[str, Any] | None = None,
    ema: bool = True,
) -> ScoreModel:
    """The model in a file of EDM, on the CPU in evaluation mode; no code in the file is run.

        EDMPrecond   EDM(0.002, 80), `edm`                            data in [-1, 1]
        VPPrecond    VP(beta_min, beta_min + beta_d), `noise`         data in [-1, 1]
        VEPrecond    VE(sigma_min / 2, sigma_max / 2), `score`        data in [0, 1]

    Their D(x; σ) is `denoise(α x, t)` with σ(t)/α(t) = σ; for VE, whose data are in [0, 1] here,
    their x is 2 x − 1 and their σ is 2 σ. The layer `map_augment`, the embedding of augmentations
    in training, is dropped, because it adds nothing without augmentation. Other precisions are read
    as float32.

    Reference: Karras et al. 2022, arXiv:2206.00364 (table 1).

    Args:
        source: A `.pkl` of EDM; a `.pt`, `.pth`, `.ckpt`, `.bin` or `.safetensors` with the state
            dict of such a network, with or without preconditioner; or that state dict.
        config: Settings that the file does not hold, or that replace its own: `precond` (`edm`,
            `vp` or `ve`; `edm` by default, with a warning), its settings `sigma_data`, `sigma_min`,
            `sigma_max` (σ of their data, in [-1, 1]), `beta_d`, `beta_min`, `M`, and `dropout` in
            further training.
        ema: Whether to take the averaged weights where there are both.

    Raises:
        ValueError: The file is damaged or names code; its network is no SongUNet, is conditional on
            classes, or differs from ours; or ema is false and there is one set of weights.
        FileNotFoundError: The file does not exist.
    """
    name = str(source) if isinstance(source, str | Path) else "the state dict"
    state, said = read_contents(source, name, ema)
    if all(key.startswith("model.") or key == "u" for key in state):
        state = {key.removeprefix("model."): value for key, value in state.items()}
    for key, sentence in _OTHERS.items():
        if key in state:
            raise ValueError(f"{name} {sentence}")
    state.pop("map_augment.weight", None)
    chosen = said | dict(config or {})
    if "precond" not in chosen:
        sentence = "%s does not name its preconditioner: assumed EDM's; give 'precond' by %s"
        log.warning(sentence, name, GIVE)
    precond, settings = settings_of(chosen, name)
    resolution, options = _architecture(state, name)
    with whole(Path(name)), torch.device("meta"):
        net = UNet(**options, dropout=settings.pop("dropout"))
    found = read(rows(net, resolution), state, net.state_dict(), name)
    net.load_state_dict(found, assign=True)
    return _preconditioned(net, precond, settings).eval()


def rows(net: UNet, resolution: int) -> list[Row]:
    """The table of EDM's names.

    Args:
        net: A network with `biggan` blocks and rescaled sums, as `load_edm` builds it.
        resolution: Height and width of its images, which the names contain.
    """
    taps = net.options.taps or (1.0, 1.0)
    table: list[Row] = []
    for part in parts(net):
        here = _name(part, resolution)
        if part.role == "fourier":
            table.append(Row(f"{here}.freqs", (f"{part.name}.W",)))
        for one in layers(part):
            if one.place == "q":
                table += _interleaved(f"{here}.qkv", part.name)
            elif one.place not in ("k", "v"):
                form = PIXELWISE if one.place == "out" else SAME
                table += layer(here + EDM_LAYERS[one.place], one.name, form)
        table += [_filter(here + place, taps) for place in _filtered(part, net)]
    return table


def _name(part: Part, resolution: int) -> str:
    """Their name of a part."""

    def at(level: int) -> str:
        size = resolution >> level if level >= 0 else resolution << -level
        return f"{size}x{size}"

    way = "enc" if part.way == "down" else "dec"
    match part.role, part.way:
        case "fourier", _:
            return "map_noise"
        case "dense", _:
            return f"map_layer{part.number}"
        case "conv_in", _:
            return f"enc.{at(0)}_conv"
        case (("norm_out" | "conv_out"), _):
            return f"dec.{at(0)}_aux_{part.role.removesuffix('_out')}"
        case "step", _:
            return f"{way}.{at(part.level + (1 if way == 'enc' else -1))}_{part.way}"
        case "pyramid", _:
            return f"{way}.{at(part.level + (way == 'enc'))}_aux"
        case _, "middle":
            return f"dec.{at(part.level)}_in{part.number}"
    return f"{way}.{at(part.level)}_block{part.number}"


def _filtered(part: Part, net: UNet) -> tuple[str, ...]:
    """Their names of the layers of a part that have a filter."""
    match part.role, part.way:
        case "step", _:
            return (".conv0", ".skip")
        case "pyramid", "down":
            return ("_down",) if isinstance(part.module, InputSkip) else ("_residual",)
        case "pyramid", _ if part.level < len(net.widths) - 1:
            return ("_up",)
    return ()


def _interleaved(theirs: str, ours: str) -> list[Row]:
    """One 1 × 1 convolution with the channels q_0, k_0, v_0, q_1, k_1, …, as three matrices."""

    def split(both: Tensor) -> Sequence[Tensor]:
        maps = [both[one::3] for one in range(3)]
        return maps if both.ndim == 1 else [one.flatten(1).T for one in maps]

    def merge(maps: Sequence[Tensor]) -> Tensor:
        together = torch.stack([one.T if one.ndim == 2 else one for one in maps], 1).flatten(0, 1)
        return together[..., None, None] if together.ndim == 2 else together

    return [
        Row(f"{theirs}.{kind}", tuple(f"{ours}.{one}.{kind}" for one in "qkv"), Form(split, merge))
        for kind in ("weight", "bias")
    ]


def _filter(theirs: str, taps: Sequence[float]) -> Row:
    """A filter, which is compared with the file: in our networks it is an option, not a tensor."""
    name = f"{theirs}.resample_filter"
    k = torch.tensor(list(taps), dtype=torch.float32, device="cpu")
    kernel = (torch.outer(k, k) / k.sum().square())[None, None]

    def split(w: Tensor) -> Sequence[Tensor]:
        if not torch.allclose(w.float().cpu(), kernel, atol=1e-4):
            raise ValueError(f"{name} is not the filter {list(taps)} of the other layers")
        return ()

    return Row(name, (), Form(split, lambda none: kernel))


def _architecture(state: Mapping[str, Tensor], name: str) -> tuple[int, dict[str, Any]]:
    """The height of the images, and the arguments of our network, from names and shapes."""
    found = (re.match(r"enc\.(\d{1,6})x\1_", key) for key in state)
    sizes = sorted({int(match[1]) for match in found if match}, reverse=True)
    if not sizes or sizes != [sizes[0] >> level for level in range(len(sizes))]:
        raise ValueError(
            f"{name} holds no SongUNet: its levels must be named as enc.32x32_, enc.16x16_, …, "
            f"got the sizes {sizes[:8]}"
        )
    levels = [f"enc.{size}x{size}" for size in sizes]
    nf, channels = _shape(state, f"{levels[0]}_conv.weight", name)[:2]
    widths = [_shape(state, f"{level}_block0.conv0.weight", name)[0] for level in levels]
    if nf < 1 or any(width < nf or width % nf for width in widths):
        raise ValueError(f"{name} has levels of {widths} channels, expected multiples of {nf}")
    blocks = {key.split(".")[1] for key in state if key.startswith(f"{levels[0]}_block")}
    residual = any("_aux_residual." in key for key in state)
    skip = any("_aux_skip." in key for key in state)
    images = sum(key.endswith("_aux_norm.weight") for key in state)
    taps = _taps(state, name)
    attends = [f"{level}_block0.qkv.weight" in state for level in levels]
    return sizes[0], {
        "shape": (channels, sizes[0], sizes[0]),
        "nf": nf,
        "ch_mult": [width // nf for width in widths],
        "num_res_blocks": len(blocks),
        "attn_levels": [level for level, attend in enumerate(attends) if attend],
        "resblock_type": "biggan",
        # Without FIR filters, resampling takes means of 2 × 2 pixels and nearest neighbours.
        "fir": residual or taps != [1.0, 1.0],
        "fir_kernel": taps,
        "skip_rescale": True,
        "progressive": "output_skip" if images > 1 else "none",
        "progressive_input": "residual" if residual else "input_skip" if skip else "none",
        "progressive_combine": "sum",
        "embedding_type": "fourier" if "map_noise.freqs" in state else "positional",
        "channels_per_group": 4,
        "norm_eps": 1e-6,
    }


def _shape(state: Mapping[str, Tensor], key: str, name: str) -> Sequence[int]:
    if key not in state or state[key].ndim != 4:
        raise ValueError(f"{name} holds no SongUNet: it has no convolution {key}")
    return state[key].shape


def _taps(state: Mapping[str, Tensor], name: str) -> list[float]:
    """The one-dimensional filter, from the first buffer that holds it in two dimensions."""
    keys = [key for key in state if key.endswith(".resample_filter")]
    if not keys:
        return [1.0, 1.0]  # a single level resamples nothing
    k = state[keys[0]].double().flatten(0, -2).sum(0)
    # On the way down they use the reversed filter, and an odd filter loses a pixel.
    if len(k) % 2 or not torch.allclose(k, k.flip(0), atol=1e-4) or not k.abs().min() > 0:
        raise ValueError(
            f"{name} has the filter {k.tolist()}, expected a symmetric one of an even number of "
            "taps, such as [1, 1] or [1, 3, 3, 1]"
        )
    return [round(tap, 5) for tap in (k / k.abs().min()).tolist()]


def _preconditioned(net: UNet, precond: str, settings: Mapping[str, float]) -> ScoreModel:
    if precond == "vp":
        beta_min = settings["beta_min"]
        sde = VP(beta_min, beta_min + settings["beta_d"])
        return ScoreModel(net, sde, "noise", data_range=(-1.0, 1.0))
    low, high = settings["sigma_min"], settings["sigma_max"]
    if precond == "ve":
        return ScoreModel(net, VE(low / 2, high / 2), "score", data_range=(0.0, 1.0))
    process, spread = EDM(low, high), settings["sigma_data"]
    return ScoreModel(net, process, "edm", data_range=(-1.0, 1.0), sigma_data=spread)
