"""What every data set checks: its range, its levels, its samples and labels."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def interval(range: Sequence[float] | None) -> tuple[float, float]:
    try:
        lo, hi = (float(value) for value in range)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        raise ValueError(
            f"range must be a pair (lo, hi), got {range!r}; use (-1, 1) or (0, 1)"
        ) from None
    if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
        raise ValueError(
            f"range ({lo}, {hi}) is impossible: lo must be < hi, both finite; use (-1, 1) or (0, 1)"
        )
    return lo, hi


def check_condition(condition: object) -> None:
    """Refuse conditions that there are not."""
    if condition is None or condition == "label":
        return
    near = difflib.get_close_matches(str(condition).lower(), ("label", "null", "none"), 1)
    meant = {"label": "label", "null": "null", "none": "null"}
    hint = f"; did you mean {meant[near[0]]}?" if near else "; use one of these"
    raise ValueError(f"condition must be null or label, got {condition!r}{hint}")


def check_labelled(name: str, condition: str | None, labelled: bool, fix: str) -> None:
    """Refuse labels as the condition of samples that have none."""
    if condition is not None and not labelled:
        raise ValueError(f"condition={condition}, but the data '{name}' have no labels; {fix}")


def cell_and_margin(range: tuple[float, float], levels: int) -> tuple[float, float]:
    """Width of a cell, and the part of it at each edge that float32 rounding can cross."""
    if not 2 <= levels <= 256:
        raise ValueError(f"levels must be in 2..256, got {levels}: raw images are uint8")
    lo, hi = range
    cell = (hi - lo) / levels
    margin = torch.finfo(torch.float32).eps * max(abs(lo), abs(hi)) / cell
    if margin > 0.1:
        raise ValueError(
            f"range ({lo}, {hi}) is too narrow for {levels} levels in float32; "
            "use (-1, 1) or (0, 1)"
        )
    return cell, margin


def check_split(
    name: str, part: str, samples: Tensor, labels: Tensor | None, levels: int | None
) -> None:
    if len(samples) == 0:
        raise ValueError(f"dataset '{name}' is empty (0 {part} samples); add samples")
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != samples.shape[:1]):
        raise ValueError(
            f"labels of the {part} part must be int64 ({len(samples)},), "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    if levels is not None:
        check_levels(samples, levels)
    elif samples.dtype != torch.float32:
        raise ValueError(f"points must be float32, got {samples.dtype}; use .float()")
    else:
        check_finite(samples)


def check_levels(raw: Tensor, levels: int) -> None:
    if raw.dtype != torch.uint8:
        raise ValueError(
            f"expected raw uint8 grey levels 0..{levels - 1}, got {raw.dtype}; "
            "pass samples of train or test"
        )
    if levels < 256 and raw.numel() and int(raw.max()) >= levels:
        raise ValueError(f"raw grey levels must be in 0..{levels - 1}, got {int(raw.max())}")


def check_request(name: str, count: int, at_once: int | None, fix: str) -> None:
    if at_once is not None and count > at_once:
        raise ValueError(
            f"{count} samples of '{name}' are asked for at once, and at most {at_once} of their "
            f"size are read on demand; {fix}"
        )


def check_finite(x: Tensor) -> None:
    if not x.isfinite().all():
        bad = (~x.isfinite()).flatten(1).any(1)
        raise ValueError(
            f"data contains NaN/Inf: {int(bad.sum())} of {len(x)} samples, "
            f"first index {int(bad.nonzero()[0])}"
        )
