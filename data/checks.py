"""Checks that the data sets share."""

from __future__ import annotations

import difflib

from torch import Tensor


def check_condition(condition: object) -> None:
    """Refuse every condition except None and "label"."""
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


def check_request(name: str, count: int, at_once: int | None, fix: str) -> None:
    """Refuse a request for more than `at_once` samples; None allows any number."""
    if at_once is not None and count > at_once:
        raise ValueError(
            f"{count} samples of '{name}' are asked for at once, and at most {at_once} of their "
            f"size are read on demand; {fix}"
        )


def check_integer(name: str, value: int, least: int) -> int:
    """Return an integer, refusing all but those ≥ `least`."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name} must be an integer ≥ {least}, got {value!r}")
    return value


def check_share(name: str, value: float) -> float:
    """Return a share, refusing all but numbers in (0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"{name} must be in (0, 1), got {value!r}")
    return float(value)


def check_finite(x: Tensor) -> None:
    """Refuse NaN and infinity, naming the first sample that has one."""
    if not x.isfinite().all():
        bad = (~x.isfinite()).flatten(1).any(1)
        raise ValueError(
            f"data contains NaN/Inf: {int(bad.sum())} of {len(x)} samples, "
            f"first index {int(bad.nonzero()[0])}"
        )
