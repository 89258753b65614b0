"""Settings that earlier versions of the toolkit wrote, in today's form."""

from collections.abc import Mapping
from typing import Any

from scoresde.sde import current_names

from .moved import FLOW

DIVERGENCES: dict[str | None, tuple[str, dict[str, Any]]] = {
    None: ("ExactOrHutchinson", {"coordinates": 16, "probes": 1}),
    "exact": ("Exact", {}),
    "hutchinson": ("Hutchinson", {"probes": 1, "distribution": "rademacher"}),
    "hutch++": ("HutchPlusPlus", {"probes": 6, "distribution": "rademacher"}),
}
DEQUANTIZATIONS = {"uniform": "Uniform", "truncated-normal": "TruncatedNormal"}


def likelihood(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings on which likelihoods depend, as in settings.json, also if `evaluate` is flat."""
    theirs: dict[str, Any] = dict(current_names(saved))
    evaluate = theirs["evaluate"]
    if "likelihood" not in evaluate:
        theirs["ood_data"] = theirs.pop("against", None)
        if "samples against" in theirs:
            theirs["samples of ood_data"] = theirs.pop("samples against")
        scored = evaluate["likelihood_samples"]
        theirs["evaluate"] = {"split": evaluate["split"], "scored": scored}
        theirs["evaluate"]["likelihood"] = _flow(evaluate)
    if theirs["evaluate"]["likelihood"]["clock"] == "log_snr":  # another name of the same clock
        theirs["evaluate"]["likelihood"]["clock"] = "half_log_snr"
    return theirs


def _flow(evaluate: Mapping[str, Any]) -> dict[str, Any]:
    """The leaf of the likelihood that corresponds to flat settings."""
    name, defaults = DIVERGENCES[evaluate["divergence"]]
    divergence = {"_target_": f"scoresde.evaluation.{name}"} | defaults
    if "probes" in defaults and evaluate["probes"]:
        divergence["probes"] = evaluate["probes"]
    name = DEQUANTIZATIONS.get(evaluate["dequantization"], "Variational")
    dequantization = {"_target_": f"scoresde.evaluation.{name}"}
    if evaluate["dequantizer"] is not None:
        dequantization["flow"] = evaluate["dequantizer"]
    return {
        "_target_": "scoresde.evaluation.FlowLikelihood",
        "divergence": divergence,
        "dequantization": dequantization,
        "control_variate": evaluate["control"],
        "batch_size": evaluate["batch_size"],
        **{name: evaluate[name] for name in (*FLOW, "eps")},
    }
