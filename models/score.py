"""The score model: a network whose output is interpreted as the score of a process."""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scoresde.sde import SDE, Described, construct, current_names, describe, expand
from scoresde.sde.broadcast import widened
from scoresde.sde.checks import check_choice, check_switch
from scoresde.sde.data_range import DataRange
from scoresde.sde.description import NAME
from scoresde.sde.score import Condition, like, per_sample

from . import file
from .c_noise import C_NOISE, usual
from .embedding import FourierFeatures
from .given import Given
from .names import fitted, inner
from .parameterization import BLIND, PARAMETERIZATIONS, Preconditioning, Scales, Weights


class _Output(NamedTuple):
    """One evaluation of a network: x̂, F, the output for a learned variance, and the weights."""

    centred: Tensor
    raw: Tensor
    variance: Tensor | None
    weights: Preconditioning

    def combine(self, weights: Weights) -> Tensor:
        """A prediction, in float32 at least."""
        skip, out = weights
        return expand(skip, self.centred) * self.centred + expand(out, self.raw) * self.raw


class ScoreModel(nn.Module):
    """A network as a score function of a process, with the meaning of its output stated here.

        x̂ = (x − α m)/h,   F = F(c_in · x̂; c_noise),   ẑ = n x̂ + k F,   s = −ẑ/σ,
        D = m + h (d x̂ + e F)

    m and h are the middle and half the width of the data range, so that a network always sees
    data in [−1, 1]; c_in, (n, k) and (d, e) follow from the parameterization
    (models/parameterization.py), and c_noise is an option of its own (models/c_noise.py).

    The input of the network has the type of its first parameter; all else is computed in the
    state's type, and in float32 at least, and ẑ, s and D have the state's type.

    Args:
        net: Network F(x, c_noise) with x of shape (B, *) and c_noise of shape (B,); a conditional
            one is F(x, c_noise, condition).
        sde: Process whose score it is.
        parameterization: What F predicts: `noise`, `score` (σ s), `raw_score` (s), `data`, `v`,
            `velocity` (dx/dt of the probability flow) or `edm`.
        data_range: Interval of the data, or None for data of no fixed range (m = 0, h = 1).
        sigma_data: Standard deviation > 0 of the data in [−1, 1], used by `edm` alone.
        learned_variance: Whether the network has twice the channels of x, whose second half gives
            the position v = (F + 1)/2 of the variance of a step between two bounds.
        fourier_features: Integers n ≥ 0, for which sin(2ⁿ π x̂/α) and the cosine, see
            `FourierFeatures`, are further inputs: each n adds twice the channels of x.
        c_noise: The noise level as the network sees it: `process`, the label of the process
            (999 t, log σ, or the level of a chain); `descending`, the levels of a chain counted
            from the noisiest, as for NCSN; or `edm`, ¼ log(σ/α). By default it is `edm` for the
            parameterization `edm` and `process` for all others.

    Attributes:
        step: Number of training steps behind the weights, if known.
        condition_dropout: Share of the conditions that the training left out, if known; 0 for a
            model that cannot be guided without a classifier.
        condition_settings: The settings of its conditions in training, if known, as plain values.

    Raises:
        ValueError: Unknown parameterization or c_noise, empty data range, sigma_data not > 0, a
            feature that is not an integer ≥ 0, `descending` without a chain, or a parameterization
            that cannot state the data at the last level of a chain, where α = 0.
    """

    def __init__(
        self,
        net: nn.Module,
        sde: SDE,
        parameterization: str = "noise",
        *,
        data_range: tuple[float, float] | None = None,
        sigma_data: float = 0.5,
        learned_variance: bool = False,
        fourier_features: Sequence[int] = (),
        c_noise: str | None = None,
    ) -> None:
        super().__init__()
        check_choice("parameterization", parameterization, *PARAMETERIZATIONS)
        c_noise = check_choice("c_noise", c_noise or usual(parameterization), *C_NOISE)
        if c_noise == "descending" and sde.steps is None:
            raise ValueError(
                "c_noise=descending counts the levels of a chain, and this process has none; "
                "use sde.discretize(steps), or sde=ncsn on a command line"
            )
        if parameterization in BLIND and sde.zero_terminal_snr:
            raise ValueError(
                f"parameterization={parameterization} says nothing of the data at the last level "
                "of this chain, where alpha = 0; use v, data, velocity or edm, or "
                "zero_terminal_snr=false"
            )
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be > 0, got {sigma_data}")
        self.net, self.sde, self.c_noise = net, sde, c_noise
        self.parameterization, self.sigma_data = parameterization, float(sigma_data)
        ends = DataRange.of(data_range)
        self.data_range = None if data_range is None else (float(ends.low), float(ends.high))
        self.learned_variance = check_switch(learned_variance, "learned_variance")
        self.features = FourierFeatures(fourier_features) if fourier_features else None
        self.step: int | None = None
        self.condition_dropout: float | None = None
        self.condition_settings: Mapping[str, Any] | None = None
        self._middle, self._half = ends.middle, ends.half

    def given(self, condition: Condition) -> Given:
        """The score with a condition, s(x, t | c), for samplers and likelihoods.

        Args:
            condition: c as the network takes it, such as labels (B,): a tensor or a dict of
                tensors, whose first dimension is B, or 1 for all samples.

        Raises:
            ValueError: The network takes no condition.
        """
        self._check_conditional()
        return Given(self, condition)

    def null_condition(self, condition: Condition) -> Condition:
        """What the network takes for no condition, in the place of a condition; of its shape.

        Raises:
            ValueError: The network takes no condition, or knows no absence of one.
        """
        self._check_conditional()
        make = getattr(inner(self.net), "null_condition", None)
        if make is None:
            raise ValueError(
                f"{type(inner(self.net)).__name__} knows no absence of a condition; give it a "
                "method null_condition(condition), and train it with condition.dropout"
            )
        absent: Condition = make(condition)
        return absent

    def noise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Noise prediction ẑ(x, t | c); shape of x.

        Args:
            x: State, shape (B, *).
            t: Time in (0, T], shape (B,) or ().
            condition: c as for `given`; None for none.
        """
        output = self._output(x, t, condition)
        return output.combine(output.weights.noise()).to(x.dtype)

    def noise_and_share(
        self, x: Tensor, t: Tensor, condition: Condition | None = None
    ) -> tuple[Tensor, Tensor]:
        """ẑ(x, t), and v in [0, 1] for a learned variance exp(v log b² + (1 − v) log v_posterior).

        Arguments as for `noise`; both have x's shape.

        Raises:
            ValueError: The network has no learned variance.

        Reference: Nichol & Dhariwal 2021, arXiv:2102.09672 (eq. 15).
        """
        output = self._output(x, t, condition)
        if output.variance is None:
            raise ValueError(
                "this model has no variance of its own; use model.learned_variance=true, "
                "or another loss than hybrid"
            )
        noise, share = output.combine(output.weights.noise()), (output.variance + 1) / 2
        return noise.to(x.dtype), share.clamp(0, 1).to(x.dtype)

    def variance_share(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """v of `noise_and_share` alone."""
        return self.noise_and_share(x, t, condition)[1]

    def _output(self, x: Tensor, t: Tensor, condition: Condition | None) -> _Output:
        """One evaluation of the network, in float32 at least."""
        x = widened(x)
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t) / self._half
        centred = (x - expand(self._middle * alpha, x)) / self._half
        scales = Scales(alpha, sigma, partial(self.sde.rates, t), self.sigma_data, self._half)
        weights = PARAMETERIZATIONS[self.parameterization](scales)
        c_noise = C_NOISE[self.c_noise](self.sde, t, scales)
        # At least float32: bfloat16 cannot distinguish the levels 899 and 900.
        own = self._own_type(x.dtype)
        exact = torch.promote_types(own, torch.float32)
        c_noise = c_noise.to(device=x.device, dtype=exact).expand(x.shape[0])
        seen = expand(weights.c_in, x) * centred
        if self.features is not None:
            # Where α = 0 the features are damped to 0, whatever the data are divided by.
            noise, scale = expand(sigma / alpha, x), expand(alpha.where(alpha > 0, 1.0), x)
            seen = torch.cat([seen, self.features(centred / scale, noise)], 1)
        raw = self._network(seen.to(own), c_noise, condition)
        raw, variance = raw.chunk(2, 1) if self.learned_variance else (raw, None)
        # Added to n x̂ an output of another shape would be broadcast silently.
        raw = like(x, raw, "the network's output")
        variance = variance if variance is None else like(x, variance, "the network's variance")
        return _Output(centred, raw, variance, weights)

    def _network(self, x: Tensor, c_noise: Tensor, condition: Condition | None) -> Tensor:
        """F; without a condition the network is called with two arguments."""
        if condition is None:
            return self.net(x, c_noise)
        self._check_conditional()
        return self.net(x, c_noise, per_sample(condition, x))

    def _check_conditional(self) -> None:
        """Raise ValueError if the network takes no condition."""
        if not self._conditional:
            raise ValueError(
                f"{type(inner(self.net)).__name__} takes no condition; use a network whose forward "
                "is (x, c_noise, condition), such as UNet(classes=K)"
            )

    @cached_property
    def _conditional(self) -> bool:
        """Whether the network takes a condition; cached, since every evaluation checks it."""
        parameters = inspect.signature(getattr(inner(self.net), "forward", self.net)).parameters
        wide = inspect.Parameter.VAR_POSITIONAL
        return "condition" in parameters or any(p.kind == wide for p in parameters.values())

    def _own_type(self, default: torch.dtype) -> torch.dtype:
        """Type of the network's first parameter; a default where it has none."""
        if not isinstance(self.net, nn.Module):  # a plain function
            return default
        types = (p.dtype for p in self.net.parameters() if p.is_floating_point())
        return next(types, default)

    def score(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Score s(x, t | c) = −ẑ/σ; shape of x. Arguments as for `noise`."""
        output = self._output(x, t, condition)
        noise = output.combine(output.weights.noise())
        return (-noise / expand(self.sde.sigma(t), noise)).to(x.dtype)

    def denoise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """Posterior mean of the data D(x, t | c) = E[x_0 | x_t = x]; shape of x.

        It equals (x + σ² s)/α where α > 0, but is not computed by this division.
        Arguments as for `noise`.

        Reference: Robbins 1956; Efron 2011 (Tweedie's formula).
        """
        output = self._output(x, t, condition)
        data = output.combine(output.weights.data())
        return (self._middle + self._half * data).to(x.dtype)

    def forward(
        self, x: Tensor, t: Tensor, condition: Condition | None = None, *, predict: str = "score"
    ) -> Any:
        """The score, so that the module itself is a `score(x, t)`, or another prediction.

        Losses call the module with `predict`, since wrappers such as DistributedDataParallel,
        torch.compile and hooks only see calls of the module itself.

        Args:
            x, t, condition: As for `noise`.
            predict: `score`, `noise`, `denoise`, or `noise_and_share`.
        """
        function = getattr(self, predict)
        return function(x, t) if condition is None else function(x, t, condition)

    def description(self) -> dict[str, Any]:
        """The model without its weights, in plain values.

        Raises:
            TypeError: The network is not `Described`.
        """
        return self._meaning() | {"net": describe(inner(self.net))}

    def _meaning(self) -> dict[str, Any]:
        """The description without the network's."""
        features = () if self.features is None else self.features.exponents
        return {
            "sde": describe(self.sde),
            "net": None,
            "parameterization": self.parameterization,
            "data_range": None if self.data_range is None else list(self.data_range),
            "sigma_data": self.sigma_data,
            "learned_variance": self.learned_variance,
            "fourier_features": list(features),
            # None where it is the usual one, so that equal models have equal descriptions.
            "c_noise": None if self.c_noise == usual(self.parameterization) else self.c_noise,
        }

    def save(self, folder: str | Path, step: int | None = None, overwrite: bool = False) -> Path:
        """Write the model as `model.safetensors` and `model.json`, which other programs can read.

        A network that is not `sde.Described` is left out of the JSON and must be given to `load`.

        Args:
            folder: Folder of the model, made if need be.
            step: Number of training steps behind the weights; `self.step` where not given.
            overwrite: Whether an existing model may be replaced.

        Returns:
            The folder.

        Raises:
            TypeError: The process cannot be described.
            FileExistsError: The folder holds a model, and overwrite is false.
        """
        net = inner(self.net)
        document = self.description() if isinstance(net, Described) else self._meaning()
        step = self.step if step is None else step
        others = {name: one for name, one in self.state_dict().items() if name[:4] != "net."}
        state = net.state_dict(prefix="net.") | others  # without the names of wrappers
        return file.write(Path(folder), document, state, step, overwrite)

    @classmethod
    def load(
        cls, folder: str | Path, net: nn.Module | None = None, sde: SDE | None = None
    ) -> "ScoreModel":
        """The model that `save` wrote, on the CPU, in evaluation mode.

        Args:
            folder: Folder of the model.
            net: Network for the weights, where the file does not describe it.
            sde: Process, where its class cannot be found by its name.

        Raises:
            FileNotFoundError: There is no model.
            ValueError: The model cannot be read, does not fit, or is of a newer version.
        """
        document, state = file.read(Path(folder))
        meaning = current_names(document["model"])
        described, process = meaning.pop("net"), meaning.pop("sde")
        if net is None and described is None:
            raise ValueError(f"{folder} does not say how its network is made; give net= in Python")
        with file.whole(Path(folder)):
            if net is None:
                # Our networks need no memory before they get their weights; others might.
                ours = str(described.get("_target_")).startswith(f"{NAME}.")
                with torch.device("meta") if ours else nullcontext():
                    net = construct(described)
            model = cls(net, construct(process) if sde is None else sde, **meaning)
            model.load_state_dict(fitted(state, model.state_dict()), assign=True)
        model.step = document["step"]
        return model.eval()
