"""Results as text: the table at the end of a run, and a Markdown table over runs.

A result is a dictionary with any of these keys: `data`, `sde`, `sampler`, `run_dir` (text),
`bits_per_dim`, `log_likelihood` (nats) and their standard errors `…_error`, `entropy` of the true
distribution (nats), `quality` (the fields of `SampleQuality`), `conditioning` (the measures of
restored images), `nfe`, and `seconds` (a dictionary with any of train, sample, likelihood, total).
Values that are missing or None are left out, and other keys are ignored.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

_MISSING = "–"
_PARTS = ("train", "sample", "likelihood", "total")


def result_table(result: Result) -> str:
    """Return the results of one run as lines of two aligned columns, without a final newline."""
    lines = [(label, line(result)) for label, line in _LINES]
    lines = [(label, text) for label, text in lines if text]
    width = max((len(label) for label, _ in lines), default=0)
    return "\n".join(f"{label:<{width}}  {text}" for label, text in lines)


def results_table(results: Sequence[Result]) -> str:
    """Return a Markdown table with one row per run, and – for missing values."""
    columns = {name: cell for name, cell in _COLUMNS.items() if any(map(cell, results))}
    rows = [list(columns), ["---" if name in _WORDS else "---:" for name in columns]]
    for result in results:
        cells = [cell(result) or _MISSING for cell in columns.values()]
        # An unescaped bar would end the cell.
        rows.append([cell.replace("|", r"\|") for cell in cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _text(key: str, template: str = "{}") -> Callable[[Result], str]:
    return lambda result: "" if result.get(key) is None else template.format(result[key])


def _measured(result: Result, key: str) -> str:
    """Return value ± error with the decimals that the error justifies, or two without an error."""
    value, error = result.get(key), result.get(f"{key}_error")
    if value is None:
        return ""
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.2f}"
    decimals = min(4, max(2, -math.floor(math.log10(error))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def _bits_per_dim(result: Result) -> str:
    text = _measured(result, "bits_per_dim")
    return f"≤ {text}" if text and result.get("bound") else text


def _log_likelihood(result: Result) -> str:
    text = _measured(result, "log_likelihood")
    if not text:
        return ""
    # The expected log-likelihood of a model is at most the negative entropy of the data.
    entropy = result.get("entropy")
    return f"{text} nats" + ("" if entropy is None else f" (best possible {-entropy:.2f})")


def _quality(template: str) -> Callable[[Result], str]:
    """The template filled from the quality in a result, or nothing where there is none."""

    def fill(result: Result) -> str:
        quality = result.get("quality")
        if not quality:
            return ""
        return template.format(**quality, smallest_class=100 * quality["coverage_min"])

    return fill


def _restored(template: str) -> Callable[[Result], str]:
    """The template filled from the measures of restored images, or nothing where there are none."""

    def fill(result: Result) -> str:
        found = result.get("conditioning") or {}
        if found.get("psnr_mean") is None:
            return ""
        return template.format(**found)

    return fill


def _spread(result: Result) -> str:
    """How much restored images vary next to their errors."""
    found = (result.get("conditioning") or {}).get("spread")
    if not found or found["ratio"] is None:
        return ""
    gaps = f"gap {found['gap']:.2f} dB, of the posterior {found['gap_exact']:.2f}"
    return f"{gaps}; error/variance {found['ratio']:.2f}, of the posterior 1"


def _seconds(result: Result) -> dict[str, float]:
    given = result.get("seconds") or {}
    return {part: given[part] for part in _PARTS if given.get(part) is not None}


def _all_seconds(result: Result) -> str:
    return ", ".join(f"{part} {_duration(value)}" for part, value in _seconds(result).items())


def _total_seconds(result: Result) -> str:
    seconds = _seconds(result)
    return _duration(seconds.get("total", sum(seconds.values()))) if seconds else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"


_LINES: list[tuple[str, Callable[[Result], str]]] = [
    ("data", _text("data")),
    ("SDE", _text("sde")),
    ("sampler", _text("sampler")),
    ("bits/dim", _bits_per_dim),
    ("log-likelihood", _log_likelihood),
    (
        "confident digits",
        _quality("{confident:.2f} (real {confident_real:.2f}, ratio {confident_ratio:.2f})"),
    ),
    ("Fréchet", _quality("{frechet:.2f} (floor {frechet_floor:.2f}, {n} images)")),
    ("smallest class", _quality("{smallest_class:.1f} %")),
    ("PSNR", _restored("mean {psnr_mean:.2f} dB, samples {psnr_sample:.2f} dB")),
    ("SSIM", _restored("mean {ssim_mean:.3f}, samples {ssim_sample:.3f}")),
    ("fit to y", _restored("{consistency:.3g}")),
    ("spread", _spread),
    ("NFE", _text("nfe", "{:.0f}")),
    ("time", _all_seconds),
    ("saved in", _text("run_dir")),
]
_WORDS = ("data", "SDE", "sampler", "conditioning")
_COLUMNS: dict[str, Callable[[Result], str]] = {
    "data": _text("data"),
    "SDE": _text("sde"),
    "sampler": _text("sampler"),
    "bits/dim": _bits_per_dim,
    "log-likelihood": _log_likelihood,
    "smallest class": _quality("{smallest_class:.1f} %"),
    "confident ratio": _quality("{confident_ratio:.2f}"),
    "Fréchet / floor": _quality("{frechet:.2f} / {frechet_floor:.2f}"),
    "conditioning": _restored("{kind}, {method}"),
    "PSNR": _restored("{psnr_mean:.2f} / {psnr_sample:.2f}"),
    "NFE": _text("nfe", "{:.0f}"),
    "time": _total_seconds,
}
