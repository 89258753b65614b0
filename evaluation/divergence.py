"""The divergence of a score: exact, or estimated from products of its Jacobian with probes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from scoresde.sde import Score
from scoresde.sde.broadcast import widened
from scoresde.sde.checks import check_choice, check_count

from .graph import derivatives_allowed, ordinary
from .seeding import Draws

EXACT_LIMIT = 4096  # coordinates; one exact divergence in more takes minutes on any machine
CHUNK = 256  # rows of the Jacobian that an exact divergence computes at once

Products = Callable[[Tensor], Tensor]
"""products(V) = A V for each sample: V and the result have shape (B, M, D)."""


class ControlVariate(Protocol):
    """A control variate: a Jacobian with a known trace, near that of the score."""

    def trace(self, t: Tensor) -> Tensor:
        """Trace of the Jacobian at times t (B,); shape (B,)."""

    def products(self, t: Tensor, v: Tensor) -> Tensor:
        """Products of the Jacobian with probes v (B, M, D), of the same shape."""


class Divergence(ABC):
    """An estimator of ∇·s.

    Attributes:
        name: Name in a configuration.
        estimates: Number K of independent estimates, whose mean estimates ∇·s.
        stochastic: Whether the estimator uses random probes.
    """

    name: str
    estimates = 1
    stochastic = True

    def draw(self, draws: Draws, x: Tensor) -> Tensor:
        """The probes of each sample of x, shape (B, M, D), which stay the same along the flow."""
        return x.new_empty(len(x), 0, x[0].numel())

    def within(self, dim: int) -> "Divergence":
        """The estimator in `dim` coordinates, where it depends on their number."""
        return self

    def check(self, dim: int) -> None:  # noqa: B027 — most have no limit
        """Raise ValueError if the estimator cannot be used in `dim` coordinates."""

    @abstractmethod
    def estimate(self, products: Products, probes: Tensor) -> Tensor:
        """Independent estimates of the trace of A, shape (B, K)."""


class Exact(Divergence):
    """The exact trace, from one product for each coordinate."""

    name = "exact"
    stochastic = False

    def check(self, dim: int) -> None:
        if dim > EXACT_LIMIT:
            raise ValueError(
                f"divergence=exact takes at most {EXACT_LIMIT} coordinates, got {dim}; "
                "use divergence=hutchinson"
            )

    def estimate(self, products: Products, probes: Tensor) -> Tensor:
        """The trace, shape (B, 1)."""
        unit = torch.eye(probes.shape[-1], dtype=probes.dtype, device=probes.device)
        trace = widened(probes.new_zeros(len(probes), 1))
        for block in unit.split(CHUNK):
            rows = block.expand(len(probes), *block.shape)
            trace = trace + (widened(products(rows)) * rows).sum((1, 2))[:, None]
        return trace


class Hutchinson(Divergence):
    """tr A ≈ vᵀ A v, unbiased for probes v with E[v vᵀ] = I.

    The variance is 2 ‖offdiag A‖² with Rademacher probes, 2 ‖A‖² with Gaussian ones (A symmetric).

    Args:
        probes: Number K ≥ 1 of probes, which share one forward pass.
        distribution: `rademacher` or `gaussian`.

    Raises:
        ValueError: K is not an integer ≥ 1, or the distribution is unknown.

    Reference: Hutchinson 1990, Communications in Statistics 19(2); Grathwohl et al. 2019,
    arXiv:1810.01367 (section 3.1).
    """

    name = "hutchinson"

    def __init__(self, probes: int = 1, distribution: str = "rademacher") -> None:
        self.estimates = check_count("probes", probes, 1)
        self.distribution = _check_distribution(distribution)

    def draw(self, draws: Draws, x: Tensor) -> Tensor:
        """The probes of each sample, shape (B, K, D)."""
        return _probes(draws, self.distribution, self.estimates, x)

    def estimate(self, products: Products, probes: Tensor) -> Tensor:
        """vᵀ A v of each probe, shape (B, K)."""
        return (widened(products(probes)) * probes).sum(2)


class HutchPlusPlus(Divergence):
    """Hutch++: the exact trace on the range of a random sketch, and Hutchinson's for the rest.

        Q = orth(A S),   tr A ≈ tr(Qᵀ A Q) + vᵀ P A P v,   P = I − Q Qᵀ

    Its error decreases as 1/M, not 1/√M, where the Jacobian is nearly of low rank.

    Args:
        probes: Number M ≥ 3 of products: a third each for the sketch, its range, and the rest.
        distribution: `rademacher` or `gaussian`.

    Raises:
        ValueError: M is not a multiple of 3, or the distribution is unknown.

    Reference: Meyer, Musco, Musco & Woodruff 2021, arXiv:2010.09649 (algorithm 1).
    """

    name = "hutch++"

    def __init__(self, probes: int = 6, distribution: str = "rademacher") -> None:
        if check_count("probes", probes, 3) % 3:
            raise ValueError(f"probes of hutch++ must be a multiple of 3, got {probes}")
        self.estimates, self.distribution = probes // 3, _check_distribution(distribution)

    def draw(self, draws: Draws, x: Tensor) -> Tensor:
        """Sketch and probes of each sample, shape (B, 2 M/3, D)."""
        return _probes(draws, self.distribution, 2 * self.estimates, x)

    def check(self, dim: int) -> None:
        if self.estimates > dim:
            raise ValueError(
                f"divergence=hutch++ takes at most {3 * dim} probes in {dim} coordinates, "
                f"got {3 * self.estimates}; use divergence=exact"
            )

    def estimate(self, products: Products, probes: Tensor) -> Tensor:
        """The estimate with each probe of the rest, shape (B, M/3)."""
        sketch, rest = probes.split(self.estimates, 1)
        basis = _range(widened(products(sketch)))
        inside = (widened(products(basis.to(probes.dtype))) * basis).sum((1, 2))
        rest = widened(rest) - (widened(rest) @ basis.mT) @ basis
        image = widened(products(rest.to(probes.dtype)))
        image = image - (image @ basis.mT) @ basis
        return inside[:, None] + (image * rest).sum(2)


class ExactOrHutchinson(Divergence):
    """The trace itself for samples of few coordinates, and Hutchinson's estimate for others.

    Args:
        coordinates: Number of coordinates ≥ 0 up to which the trace is exact.
        probes: Number K ≥ 1 of Hutchinson's probes.

    Raises:
        ValueError: A number is not an integer of its range.
    """

    name = "exact or hutchinson"

    def __init__(self, coordinates: int = 16, probes: int = 1) -> None:
        self.coordinates = check_count("coordinates", coordinates, 0)
        self.hutchinson = Hutchinson(probes)

    def within(self, dim: int) -> Divergence:
        """Either rule."""
        return Exact() if dim <= self.coordinates else self.hutchinson

    def estimate(self, products: Products, probes: Tensor) -> Tensor:
        """Refuse to estimate before `within` has chosen a rule."""
        raise TypeError("ExactOrHutchinson estimates nothing itself; use within(dim)")


DIVERGENCES: dict[str, type[Divergence]] = {
    rule.name: rule for rule in (Exact, Hutchinson, HutchPlusPlus)
}


def choose_divergence(name: "str | Divergence") -> Divergence:
    """The divergence with a name, at its default settings; a `Divergence` is returned unchanged."""
    if isinstance(name, Divergence):
        return name
    return DIVERGENCES[check_choice("divergence", name, *DIVERGENCES)]()


def score_and_divergence(
    score: Score,
    x: Tensor,
    t: Tensor,
    divergence: Divergence,
    probes: Tensor,
    *,
    control_variate: ControlVariate | None = None,
    forward_mode: bool = False,
    differentiable: bool = False,
) -> tuple[Tensor, Tensor]:
    """s(x, t) and the estimates of ∇·s, (B, K), from one forward pass.

    Args:
        score: s(x, t).
        x: State, shape (B, *).
        t: Time, shape (B,).
        divergence: Estimator.
        probes: Probes from `divergence.draw` for these samples, (B, M, D).
        control_variate: Control variate whose Jacobian is subtracted and whose trace is added.
        forward_mode: Compute products by forward-mode differentiation, with one pass of the network
            for each; for networks without a backward pass.
        differentiable: Keep the graph, so that the result can be differentiated.
    """
    with derivatives_allowed():
        x, t, probes = ordinary(x), ordinary(t), ordinary(probes)
        if differentiable and not x.requires_grad:
            x = x.detach().requires_grad_()
        jacobian = (_ForwardMode if forward_mode else _ReverseMode)(score, x, t, differentiable)
        if control_variate is None:
            estimate = divergence.estimate(jacobian.products, probes)
        else:
            known = control_variate.products
            rest = divergence.estimate(
                lambda v: jacobian.products(v) - known(t, widened(v)), probes
            )
            estimate = rest + control_variate.trace(t).to(rest)[:, None]
        s = jacobian.score
        return (s, estimate) if differentiable else (s.detach(), estimate.detach())


class _ReverseMode:
    """Vector-Jacobian products from one forward pass; the trace of Jᵀ is that of J."""

    def __init__(self, score: Score, x: Tensor, t: Tensor, differentiable: bool) -> None:
        with torch.enable_grad():
            self.x = x if x.requires_grad else x.detach().requires_grad_()
            # The fused attention kernels have no second derivative.
            with sdpa_kernel(SDPBackend.MATH) if differentiable else nullcontext():
                self.score = score(self.x, t)
        self.differentiable = differentiable

    def products(self, v: Tensor) -> Tensor:
        """Products with probes (B, M, D); all M in one backward pass."""
        several = v.shape[1] > 1
        along = v.transpose(0, 1).reshape(-1, *self.x.shape) if several else v.reshape_as(self.x)
        with torch.enable_grad():
            (product,) = torch.autograd.grad(
                self.score,
                self.x,
                along,
                retain_graph=True,
                create_graph=self.differentiable,
                is_grads_batched=several,
            )
        if not several:
            return product.reshape(v.shape)
        return product.reshape(v.shape[1], *v[:, 0].shape).transpose(0, 1)


class _ForwardMode:
    """Jacobian-vector products; each takes one pass of the network, which also gives the score."""

    def __init__(self, score: Score, x: Tensor, t: Tensor, differentiable: bool) -> None:
        self._function, self.x, self.score = (lambda y: score(y, t)), x, x

    def products(self, v: Tensor) -> Tensor:
        """Products with probes (B, M, D), one pass for each of the M."""
        columns = []
        for row in v.unbind(1):
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward derivative
                pair = torch.func.jvp(self._function, (self.x,), (row.reshape_as(self.x),))
            self.score = pair[0]
            columns.append(pair[1].reshape(row.shape))
        return torch.stack(columns, 1)


def _range(rows: Tensor) -> Tensor:
    """An orthonormal basis Q of the span of rows y (B, M, D), as rows, with its derivative.

        y = R Q,   dQ = R⁺ dy (1 − Qᵀ Q)

    A QR decomposition has no derivative where rows are linearly dependent, since some rows of Q are
    then arbitrary. The projector on the span has one wherever the rank of y is locally constant,
    and it is that of the formula above. The values are those of the decomposition.
    """
    y = rows.detach()
    q = torch.linalg.qr(y.mT).Q.mT
    if not rows.requires_grad:
        return q
    # Rounding errors are far below √ε of the largest singular value: the rank counts those above.
    inverse = torch.linalg.pinv(y @ q.mT, rtol=torch.finfo(y.dtype).eps ** 0.5)
    change = rows - y  # its value is 0, its derivative that of the rows
    return q + inverse @ (change - (change @ q.mT) @ q)


def _probes(draws: Draws, distribution: str, count: int, x: Tensor) -> Tensor:
    shape = (count, x[0].numel())
    kind = draws.rademacher if distribution == "rademacher" else draws.normal
    return kind("probe", shape).to(x)


def _check_distribution(name: str) -> str:
    return check_choice("distribution of probes", name, "rademacher", "gaussian")
