"""The cost and the errors of likelihoods, on a trained network of the digits.

python -m benchmarks.likelihood [--run FOLDER] [--images N]

FOLDER is a run of `experiments/run.py sde=vp` on the digits; without it one is trained first. One
run measures passes of the network, evaluations and seconds compared with the method of the
reference implementation (SciPy's RK45 on the flattened batch, drift and divergence from a network
call each), and the variance of each estimate of the divergence.
"""

import argparse
from pathlib import Path


def arguments() -> argparse.Namespace:
    """The settings on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="run folder with a model of the digits on VP")
    parser.add_argument("--images", type=int, default=256, help="test images (256)")
    return parser.parse_args()


if __name__ == "__main__":  # --help is answered before torch is imported
    arguments()

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from benchmarks.digits import Digits
from benchmarks.measure import median_seconds
from scoresde.evaluation import GaussianControl, Hutchinson, HutchPlusPlus, log_likelihood
from scoresde.evaluation.divergence import Divergence, score_and_divergence
from scoresde.evaluation.seeding import Draws
from scoresde.sde import SDE, Score

TIMED = ("reference", "the same tolerance", "as in `evaluate`")
RTOL = 1e-5  # the reference's
PROBE: dict[str, Any] = {"divergence": "hutchinson", "clock": "log_snr"}


def passes(score: Score, x: Tensor) -> dict[str, float]:
    """Cost of score and divergence at one state, in forward passes."""
    t = torch.full((len(x),), 0.3, dtype=torch.float64)
    draws = Draws(0, range(len(x)))

    def forward() -> None:
        with torch.no_grad():
            score(x, t)

    def both(rule: Divergence, forward_mode: bool = False) -> Callable[[], object]:
        probes = rule.draw(draws, x)
        return lambda: score_and_divergence(score, x, t, rule, probes, forward_mode=forward_mode)

    seconds = median_seconds(
        {
            "forward": forward,
            "one probe": both(Hutchinson()),
            "four probes": both(Hutchinson(4)),
            "Hutch++, six products": both(HutchPlusPlus(6)),
            "one probe, forward mode": both(Hutchinson(), True),
        }
    )
    return {name: value / seconds["forward"] for name, value in seconds.items()}


def reference(
    sde: SDE, score: Score, x: Tensor, probe: Tensor, rtol: float
) -> tuple[Tensor, int, float]:
    """log p of a batch by the method of the reference, its evaluations, and the mean |∫ ∇·v|."""
    shape, dim = x.shape, x[0].numel()

    def drift(x: Tensor, t: Tensor) -> Tensor:
        return sde.reverse(score, eta=0.0).drift(x, t)

    def field(t: float, y: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(y[: x.numel()]).reshape(shape).float()
        times = torch.full((len(x),), t, dtype=torch.float64)
        with torch.no_grad():
            velocity = drift(state, times)
        with torch.enable_grad():
            state.requires_grad_()
            (product,) = torch.autograd.grad((drift(state, times) * probe).sum(), state)
        divergence = (product * probe).flatten(1).sum(1)
        return torch.cat([velocity.reshape(-1), divergence]).double().numpy()

    start = np.concatenate([x.double().reshape(-1).numpy(), np.zeros(len(x))])
    found = solve_ivp(field, (sde.eps, sde.T), start, method="RK45", rtol=rtol, atol=rtol)
    end = torch.from_numpy(found.y[:, -1])
    latent = end[: x.numel()].reshape(len(x), dim)
    change = end[x.numel() :]
    return (
        sde.prior((len(x), dim)).log_prob(latent) + change,
        found.nfev,
        change.abs().mean().item(),
    )


def ways(dim: int, change: float) -> dict[str, dict[str, Any]]:
    """Our settings by their names.

    RK45 bounds a root mean square over the coordinates, and the error of log p relative to log p;
    ours bounds the length of the error, √D times the former, and the absolute error of log p.
    """
    length = RTOL * dim**0.5
    same = {"rtol": length, "atol": length, "log_prob_tol": RTOL * change}
    image = {"rtol": 1e-4, "atol": 1e-4, "log_prob_tol": 1e-4 * dim}
    tight = {"rtol": RTOL, "atol": RTOL}
    over_time: dict[str, Any] = {"clock": "t"}
    return {
        "the same tolerance": same,
        "the same, over t": same | over_time,
        "as in `evaluate`": image,
        "as in `evaluate`, over t": image | over_time,
        "as in `evaluate`, dop853": image | {"method": "dop853"},
        f"rtol {RTOL:g}, for log p too": tight,
        f"rtol {RTOL:g}, for log p too, over t": tight | over_time,
    }


def spread(score: Score, sde: SDE, data: Tensor, x: Tensor) -> dict[str, float]:
    """Standard error of one image's bits/dim due to the probes of its divergence."""
    control = GaussianControl.fit(sde, data)
    rules = {
        "one probe": (Hutchinson(2), None, 2),
        "one probe, Gaussian control": (Hutchinson(2), control, 2),
        "one Gaussian probe": (Hutchinson(2, "gaussian"), None, 2),
        "Hutch++, six products": (HutchPlusPlus(6), None, 1),
        "Hutch++, six products, control": (HutchPlusPlus(6), control, 1),
        "six probes": (Hutchinson(6), None, 1),
        "six probes, control": (Hutchinson(6), control, 1),
    }
    found = {}
    for name, (rule, gaussian, count) in rules.items():
        result = log_likelihood(
            sde, score, x, rtol=1e-3, atol=1e-3, divergence=rule, control_variate=gaussian, seed=1
        )
        nats = (count * result.probe_error.square().mean()).sqrt().item()
        found[name] = nats / (x[0].numel() * np.log(2))
    return found


def rounding(sde: SDE, score: Score, x: Tensor) -> tuple[float, float]:
    """Changes of scores (relative) and log p (nats) of samples due to others in their batch."""
    few, t = x[:8], torch.full((len(x),), 0.3, dtype=torch.float64)
    with torch.no_grad():
        whole = score(x, t)[:8]
        alone = torch.cat([score(few[i : i + 1], t[:1]) for i in range(8)])
    settings = PROBE | {"rtol": 1e-4, "atol": 1e-4}
    together = log_likelihood(sde, score, x, **settings).log_prob[:8]
    single = [
        log_likelihood(sde, score, few[i : i + 1], sample_ids=[i], **settings).log_prob
        for i in range(8)
    ]
    moved = (torch.cat(single) - together).abs().max().item()
    return ((alone - whole).norm() / whole.norm()).item(), moved


def main() -> None:
    """Print the tables."""
    asked = arguments()
    digits = Digits.of(asked.run)
    parts, model = digits.parts, digits.model.eval().requires_grad_(False)
    sde, data = parts.sde, parts.data
    raw = data.test[: asked.images]
    x = data.scale(raw, torch.Generator().manual_seed(0))
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {len(x)} digits\n")
    print("| score and divergence at one state | forward passes |\n|---|---:|")
    for name, cost in passes(model, x).items():
        print(f"| {name} | {cost:.2f} |")

    probe = Hutchinson().draw(Draws(0, range(len(x))), x)[:, 0].reshape(x.shape)
    exact = log_likelihood(sde, model, x, rtol=1e-6, atol=1e-6, **PROBE).log_prob
    log_prob, nfe, change = reference(sde, model, x, probe, RTOL)
    found = {"reference": (float(nfe), log_prob)}
    actions: dict[str, Callable[[], Any]] = {
        "reference": partial(reference, sde, model, x, probe, RTOL)
    }
    for name, settings in ways(x[0].numel(), change).items():
        actions[name] = partial(log_likelihood, sde, model, x, **PROBE | settings)
        result = actions[name]()
        found[name] = (result.nfe.double().mean().item(), result.log_prob)
    timed = median_seconds({name: actions[name] for name in TIMED}, rounds=3)
    print("\n| likelihood of all | evaluations | seconds | error (nats, RMS) | largest |")
    print("|---|---:|---:|---:|---:|")
    for name, (count, log_prob) in found.items():
        off = (log_prob - exact).abs()
        rms = off.square().mean().sqrt()
        seconds = f"{timed[name]:.1f}" if name in timed else ""
        print(f"| {name} | {count:.0f} | {seconds} | {rms:.1e} | {off.max():.1e} |")

    own, moved = rounding(sde, model, x)
    print(
        f"\nAlone or in the batch: scores differ by {own:.1e}, log p by {moved:.1e} nats at most."
    )
    print("\n| estimate of the divergence | standard error of one image (bits/dim) |\n|---|---:|")
    for name, bits in spread(model, sde, data.scale(data.train[:]), x[:64]).items():
        print(f"| {name} | {bits:.4f} |")


if __name__ == "__main__":
    main()
