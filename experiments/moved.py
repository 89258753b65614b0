"""Former keys of the command line, and where their settings are now."""

# Settings of the likelihood by the flow.
FLOW = ("rtol", "atol", "log_prob_tol", "method", "clock", "draws", "importance")
# Several settings of `evaluate` were flat before they became leaves of their own.
MOVED = {
    "evaluate.samples": "evaluate.samples.count",
    "evaluate.pictures": "evaluate.samples.pictures",
    "evaluate.frames": "evaluate.samples.frames",
    "evaluate.likelihood": "evaluate/likelihood",
    "evaluate.likelihood_samples": "evaluate.scored",
    "evaluate.quality": "evaluate/quality",
    "evaluate.divergence": "evaluate/likelihood/divergence",
    "evaluate.probes": "evaluate.likelihood.divergence.probes",
    "evaluate.control": "evaluate.likelihood.control_variate",
    "evaluate.dequantization": "evaluate/likelihood/dequantization",
    "evaluate.dequantizer": "evaluate.likelihood.dequantization.flow",
    "evaluate.shard": "task.shard",
    "evaluate.shards": "task.shards",
    "draw": "task.draw",
    "image_size": "task.image_size",
    "dequantizer.score": "task.score",
    "data@against": "data@ood_data",
    "against": "data@ood_data",
    "model.labels": "model.c_noise",
    "model.net.conditional": "model.net.noise_conditional",
    "sampler.predictor.as_published": "sampler/predictor",
    "sampler.predictor.settle_below": "sampler.predictor.lower_order_final_below",
}
MOVED |= {f"evaluate.{name}": f"evaluate.likelihood.{name}" for name in FLOW}
MOVED |= {f"evaluate.{name}": f"evaluate.bounds.{name}" for name in ("vlb", "elbo", "terms")}
MOVED["evaluate.variance"] = "evaluate.bounds.variance"
# What was a value is a choice of a group now.
CHOICES = {
    ("sampler/predictor", "true"): "dpmpp",
    ("sampler/predictor", "false"): "dpmpp_3m_corrected",
    ("evaluate/likelihood", "true"): "flow",
    ("evaluate/likelihood", "false"): "none",
    ("evaluate/quality", "true"): "classifier",
    ("evaluate/quality", "false"): "none",
    ("evaluate/likelihood/divergence", "null"): "auto",
    ("evaluate/likelihood/divergence", "hutch++"): "hutchpp",
    ("evaluate/likelihood/dequantization", "truncated-normal"): "truncated_normal",
}


def check_moved(override: str) -> None:
    """Raise ValueError if a key has moved, and say where it is."""
    key, _, value = override.lstrip("+").partition("=")
    if key in MOVED and not value.startswith("{"):
        now = MOVED[key]
        chosen = CHOICES.get((now, value.strip()), value)
        raise ValueError(f"unknown key '{key}'. Did you mean {now}={chosen}?")
