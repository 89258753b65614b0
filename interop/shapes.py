"""The configuration of a checkpoint of score-SDE, inferred from the shapes of its tensors."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from . import refinenet
from .configuration import CONSTANTS, refine_name
from .fields import GIVE

log = logging.getLogger(__name__)
Shapes = Mapping[str, tuple[int, ...]]
VE_DECAY = 0.999  # decay of the averages of VE's published networks; 0.9999 for the others


def guess(
    shapes: Shapes, sigmas: Tensor | None, decay: float | None, source: object
) -> dict[str, Any]:
    """The configuration of a network, with the field names of score-SDE.

    Args:
        shapes: Shape of each tensor of the file `source`, by its name.
        sigmas: The buffer of noise levels in the checkpoint, in decreasing order.
        decay: Decay of the average, which distinguishes VE's networks from VP's.

    Raises:
        ValueError: The tensors are not those of a network of score-SDE.
    """
    table = dict(CONSTANTS)
    if sigmas is not None and (sigmas.ndim != 1 or len(sigmas) < 2):
        raise ValueError(f"{source} has levels σ of shape {tuple(sigmas.shape)}, expected (N,)")
    if sigmas is not None:
        table |= {"sigma_max": _round(sigmas[0]), "sigma_min": _round(sigmas[-1])}
        table["num_scales"] = len(sigmas)
    if "begin_conv.weight" in shapes:
        options = refinenet.describe(shapes)
        model = table | {"name": refine_name(options), "nf": options["nf"]}
        channels, ve, continuous = options["shape"][0], True, False
        if options["num_levels"] is not None:
            model["num_scales"] = options["num_levels"]
            model["sigma_max"] = 1.0 if sigmas is None else model["sigma_max"]
        if sigmas is None:
            levels = f"{model['num_scales']} levels σ from {model['sigma_max']} to 0.01"
            _warn(source, f"{levels}, which its tensors do not show")
    else:
        try:
            walk = _Walk(shapes)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"{source} does not identify its network ({error}); give the fields of "
                f"score-SDE's configuration: {GIVE}"
            ) from error
        model, channels = table | walk.fields, walk.channels
        ve, continuous = _assume(model, decay, sigmas is None, source)
        model["scale_by_sigma"] = ve
    return {
        "model": model,
        "data": {"image_size": None, "num_channels": channels, "centered": not ve},
        "training": {"sde": "vesde" if ve else "vpsde", "continuous": continuous},
    }


def _assume(
    model: Mapping[str, Any], decay: Any, no_levels: bool, source: object
) -> tuple[bool, bool]:
    """Whether a network is VE's, and whether its time is continuous, as for the published ones."""
    if model["name"] == "ddpm":
        _warn(source, "DDPM's chain of VP with β from 0.1 to 20")
        return False, False
    if model["embedding_type"] == "fourier":
        constants = " with σ from 0.01 to 50" if no_levels else ""
        _warn(source, f"VE{constants}, and an output that is divided by σ")
        return True, True
    known = isinstance(decay, int | float)
    if known and decay <= VE_DECAY and model["progressive_input"] != "none":
        _warn(source, "NCSN's chain of VE, by the decay of its average")
        return True, False
    _warn(source, "VP with β from 0.1 to 20; sub-VP has the same tensors")
    return False, True


def _warn(source: object, assumed: str) -> None:
    sentence = f"{source} has no configuration: assumed {assumed}, and all else as published"
    log.warning("%s; otherwise give a configuration: %s", sentence, GIVE)


def _round(sigma: Tensor) -> float:
    """A noise level as it was typed: the buffer has float32 numbers from an exponential."""
    return float(f"{sigma.item():.5g}")


class _Walk:
    """A walk over a network's layers, whose kinds are inferred from their tensors."""

    def __init__(self, shapes: Shapes) -> None:
        self.layers: dict[int, dict[str, tuple[int, ...]]] = {}
        for name, shape in shapes.items():
            found = re.fullmatch(r"all_modules\.(\d+)\.(.+)", name)
            if found is None:
                raise ValueError(f"{name} is no layer of all_modules")
            self.layers.setdefault(int(found[1]), {})[found[2]] = shape
        self.position = 0
        self.kinds = {i: _kind(tensors) for i, tensors in self.layers.items()}
        fourier = self._take("fourier")
        self._take("dense")
        self._take("dense")
        if self._kind() != "conv":
            raise ValueError("there is no first convolution after the embedding")
        self.nf, self.channels = self.layers[self.position]["weight"][:2]
        self.position += 1
        blocks = [layer for i, layer in self.layers.items() if self.kinds[i] == "block"]
        biggan = any("Conv_2.weight" in block for block in blocks)
        self.ch_mult: list[int] = []
        self.attended: list[int] = []
        self.pyramid, self.combine, self.learned = "none", "sum", True
        self.blocks = self._down(biggan, len(blocks))
        progressive = self._output_pyramid()
        fir = any("Conv2d_0.weight" in layer for layer in self.layers.values())
        residual = "residual" in (progressive, self.pyramid)  # its names show whether it filters
        pyramids = progressive != "none" or self.pyramid != "none"
        ddpm = not (biggan or pyramids or fourier or fir)
        self.fields: dict[str, Any] = {
            "name": "ddpm" if ddpm else "ncsnpp",
            "nf": self.nf,
            "ch_mult": self.ch_mult,
            "num_res_blocks": self.blocks,
            "attn_levels": sorted(set(self.attended)),
            "dropout": 0.1,
            "resamp_with_conv": self.learned,
            "fir": fir or (pyramids and not residual),  # as published
            "fir_kernel": [1, 3, 3, 1],
            "skip_rescale": True,
            "resblock_type": "biggan" if biggan else "ddpm",
            "progressive": progressive,
            "progressive_input": self.pyramid,
            "progressive_combine": self.combine,
            "embedding_type": "fourier" if fourier else "positional",
            "fourier_scale": 16,
        }

    def _kind(self) -> str:
        return self.kinds.get(self.position, "empty")

    def _take(self, kind: str) -> bool:
        """Step over the current layer if it has this kind."""
        if self._kind() != kind:
            return False
        self.position += 1
        return True

    def _down(self, biggan: bool, total: int) -> int:
        """Walk down to the middle, and return the number of blocks of a level."""
        count: int | None = None
        for level in range(len(self.layers)):
            number = 0
            while self._kind() == "block" and not self._halves(biggan) and number != count:
                self.ch_mult[level:] = [self._width() // self.nf]
                self.position += 1
                number += 1
                if self._take("attention"):
                    self.attended.append(level)
                if self._single(total, number, count):
                    return number
            if number == 0:
                raise ValueError("a level has no blocks")
            count = number if count is None else count
            if number != count or not self._step(biggan):
                break
        if not count or number != count:
            raise ValueError("levels have different numbers of blocks")
        return count

    def _single(self, total: int, number: int, count: int | None) -> bool:
        """Whether the network has a single level, with n + 2 + (n + 1) blocks and no steps."""
        steps = [i for i in self.kinds if self.kinds[i] == "resample"]
        doubled = any(self.kinds[i] == "block" and _halving(self.layers[i]) for i in self.layers)
        gaps = len(self.layers) != max(self.layers) + 1
        return count is None and not (steps or doubled or gaps) and total == 2 * number + 3

    def _halves(self, biggan: bool) -> bool:
        return biggan and _halving(self.layers[self.position])

    def _width(self) -> int:
        return self.layers[self.position]["Conv_0.weight"][0]

    def _step(self, biggan: bool) -> bool:
        """Step over the layers that halve the resolution; False where there are none."""
        if biggan:
            if not (self._kind() == "block" and self._halves(biggan)):
                return False
            self.position += 1
        elif self._kind() == "empty":
            self.learned = False
            self.position += 1
        elif not self._take("resample"):
            return False
        if self._take("resample"):
            self.pyramid = "residual"
        elif self._kind() == "combine":
            self.pyramid = "input_skip"
            width = self._width()
            self.position += 1
            after = self.layers[self.position]["Conv_0.weight"][1]
            self.combine = "cat" if after == 2 * width else "sum"
        return True

    def _output_pyramid(self) -> str:
        norms = [i for i in sorted(self.kinds) if self.kinds[i] == "norm"]
        if len(norms) < 2:
            return "none"
        image = self.layers[norms[0] + 1]["weight"][0] == self.channels
        return "output_skip" if image else "residual"


def _kind(tensors: Mapping[str, tuple[int, ...]]) -> str:
    if "W" in tensors:
        return "fourier"
    if "weight" in tensors:
        return {1: "norm", 2: "dense", 4: "conv"}[len(tensors["weight"])]
    if "NIN_3.W" in tensors:
        return "attention"
    if "GroupNorm_0.weight" in tensors:
        return "block"
    (weight,) = (shape for name, shape in tensors.items() if name.endswith("weight"))
    return "combine" if weight[2:] == (1, 1) else "resample"


def _halving(block: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a BigGAN block resamples: it has a shortcut although its channels stay the same."""
    out, into = block["Conv_0.weight"][:2]
    return out == into and "Conv_2.weight" in block
