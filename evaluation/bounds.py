"""The variational bounds of a data set by one set of settings, checked when it is given."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from scoresde.sde import SDE
from scoresde.sde.cautions import silent
from scoresde.sde.checks import check_choice, check_count, check_positive, check_switch
from scoresde.sde.data_range import Cells

from .result import VariationalBound, join
from .variational import VARIANCES, elbo, variational_bound


@dataclass(frozen=True)
class Bounds:
    """Which variational bounds are computed: `variational_bound`, `elbo`, both, or none.

    Args:
        vlb: Steps N ≥ 2 of the chain of DDPM's bound; None to leave that bound out.
        elbo: Whether the bound of continuous time is computed.
        terms: Terms of each bound ≥ 1 that a sample takes.
        variance: Variance of the chain's steps: `posterior`, `forward`, `learned`; None for
            `learned` where the network has learned one, else `posterior`.
        eps: Lowest time > 0; None for the process's own.
        batch_size: Most samples at once ≥ 1.

    Raises:
        ValueError: A setting is not of its kind or out of its range.
    """

    vlb: int | None = None
    elbo: bool = False
    terms: int = 32
    variance: str | None = None
    eps: float | None = None
    batch_size: int = 500

    def __post_init__(self) -> None:
        if self.vlb is not None:
            check_count("vlb", self.vlb, 2)
        check_switch(self.elbo, "elbo")
        check_count("terms", self.terms, 1)
        check_count("batch_size", self.batch_size, 1)
        if self.eps is not None:
            check_positive("eps", self.eps)
        if self.variance is not None:
            check_choice("variance", self.variance, *VARIANCES, "learned")

    @property
    def names(self) -> list[str]:
        """Names of the bounds that are computed."""
        return ["vlb"] * (self.vlb is not None) + ["elbo"] * self.elbo

    def check(self, sde: SDE, cells: Cells | None, learned: bool) -> None:
        """Refuse what could only fail after a training.

        Args:
            sde: Process.
            cells: Cells of the data; None for points.
            learned: Whether the network learns the variance of the steps.

        Raises:
            ValueError: Points have no bound, the process has none or no time eps, or no variance is
                learned.
        """
        if self.variance == "learned" and not learned:
            raise ValueError("evaluate.bounds.variance=learned needs model.learned_variance=true")
        if not self.names:
            return
        if cells is None:
            raise ValueError(
                f"evaluate.bounds.{self.names[0]} bounds the likelihood of quantized images; these "
                "data are points, whose likelihood needs no bound"
            )
        sde.check_signal(f"the bound (evaluate.bounds.{self.names[0]})")
        if self.eps is not None:
            sde.check_end(self.eps)
        if self.vlb is not None:
            sde.equal_times(self.vlb, self.eps)

    def __call__(
        self,
        sde: SDE,
        model: Any,
        score: Callable[[list[int]], Any],
        raw: Any,
        cells: Cells,
        *,
        seed: int,
        sample_ids: list[int],
        device: Any = None,
    ) -> dict[str, Any]:
        """The bounds of quantized samples, as entries of result.json.

        Args:
            sde: Process.
            model: Network, which may have learned a variance.
            score: The score of the samples of given numbers.
            raw: Values k, integers, shape (B, *); a part is read at a time.
            cells: Their cells.
            seed: Seed of times and noise.
            sample_ids: Numbers of the samples.
            device: Where they are evaluated.
        """

        def whole(bound: Callable[..., VariationalBound]) -> dict[str, Any]:
            parts = []
            bar = tqdm(total=len(sample_ids), disable=None, leave=False, unit="sample")
            for first in range(0, len(sample_ids), self.batch_size):
                rows = slice(first, min(first + self.batch_size, len(sample_ids)))
                k, ids = raw[rows].to(device), sample_ids[rows]
                with silent():  # the data of the whole run have been looked at
                    part = bound(sde, score(ids), k, cells, seed=seed, sample_ids=ids, eps=self.eps)
                parts.append(part)
                bar.update(len(k))
            bar.close()
            return join(parts).summary()

        found = dict[str, Any]()
        if self.elbo:
            print("variational bound of continuous time", flush=True)
            found |= whole(partial(elbo, terms=self.terms))
        if self.vlb is not None:
            print(f"variational bound of {self.vlb} steps", flush=True)
            found |= whole(self._chain(model, self.vlb))
        return found

    def _chain(self, model: Any, steps: int) -> Callable[..., VariationalBound]:
        """The bound of the chain, with the variance of its steps."""
        learned = self.variance is None and getattr(model, "learned_variance", False)
        learned = learned or self.variance == "learned"
        terms = self.terms if self.terms < steps - 1 else None

        def bound(sde: SDE, score: Any, *data: Any, **own: Any) -> VariationalBound:
            variance = score.variance_share if learned else self.variance or "posterior"
            own |= {"steps": steps, "variance": variance, "terms": terms}
            return variational_bound(sde, score, *data, **own)

        return bound
