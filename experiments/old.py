"""Settings that earlier versions of the toolkit wrote, in today's form."""

from collections.abc import Mapping
from typing import Any

from scoresde.sde import current_names

FLOW = ("rtol", "atol", "log_prob_tol", "method", "clock", "eps", "draws", "importance")
DEQUANTIZATIONS = {"uniform": "Uniform", "truncated-normal": "TruncatedNormal"}


def likelihood(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings on which likelihoods in a folder depend, also where `evaluate` is flat.

    Args:
        saved: What settings.json of the folder holds, or would hold.
    """
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
    named, probes = evaluate["divergence"], evaluate["probes"]
    rules: dict[str | None, dict[str, Any]] = {
        None: {"_target_": "ExactOrHutchinson", "coordinates": 16, "probes": probes or 1},
        "exact": {"_target_": "Exact"},
        "hutchinson": {
            "_target_": "Hutchinson",
            "probes": probes or 1,
            "distribution": "rademacher",
        },
        "hutch++": {
            "_target_": "HutchPlusPlus",
            "probes": probes or 6,
            "distribution": "rademacher",
        },
    }
    divergence = rules[named]
    dequantization = {"_target_": DEQUANTIZATIONS.get(evaluate["dequantization"], "Variational")}
    if evaluate["dequantizer"] is not None:
        dequantization["flow"] = evaluate["dequantizer"]
    for leaf in (divergence, dequantization):
        leaf["_target_"] = f"scoresde.evaluation.{leaf['_target_']}"
    return {
        "_target_": "scoresde.evaluation.FlowLikelihood",
        "divergence": divergence,
        "dequantization": dequantization,
        "control_variate": evaluate["control"],
        "batch_size": evaluate["batch_size"],
        **{name: evaluate[name] for name in FLOW},
    }
