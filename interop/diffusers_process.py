"""The configurations of diffusers' schedulers, and the processes here that they describe."""

from collections.abc import Mapping
from typing import Any

from scoresde.models import ScoreModel
from scoresde.sde import SDE, VE, VP, CosineSchedule, ScaledLinearSchedule, describe
from scoresde.sde.checks import check_choice

PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
VE_SCHEDULER = "ScoreSdeVeScheduler"


def process(scheduler: Mapping[str, Any], source: object) -> SDE:
    """The process of a scheduler.

    Raises:
        ValueError: The process is not supported; the message names the field.
    """
    kind = scheduler.get("_class_name", "DDPMScheduler")
    if kind == VE_SCHEDULER:
        return VE(scheduler.get("sigma_min", 0.01), scheduler.get("sigma_max", 1348.0))
    if "num_train_timesteps" not in scheduler or "beta_schedule" not in scheduler:
        raise ValueError(f"{source} has a {kind}, which has no chain of β; give sde= in Python")
    if scheduler.get("trained_betas") is not None:
        raise ValueError(f"{source} has its own betas (trained_betas), which are not supported")
    zero = bool(scheduler.get("rescale_betas_zero_snr"))
    steps, schedule = scheduler["num_train_timesteps"], scheduler["beta_schedule"]
    first, last = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
    if schedule == "linear":
        base = VP(steps * first, steps * last)
    elif schedule == "scaled_linear":
        base = VP(schedule=ScaledLinearSchedule(steps * first, steps * last))
    elif schedule == "squaredcos_cap_v2":
        base = VP(schedule=CosineSchedule())
    else:
        raise ValueError(
            f"{source} has beta_schedule={schedule}; only linear, scaled_linear and "
            "squaredcos_cap_v2 are supported"
        )
    return base.discretize(steps, zero)


def wrapping(config: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a ScoreModel other than the network and the process.

    The configuration of the scheduler is empty where there is none.

    Raises:
        ValueError: The embedding does not fit the scheduler, or the prediction is not supported.
    """
    channels, out = config.get("in_channels", 3), config.get("out_channels", 3)
    double = out == 2 * channels
    if out != channels and not double:
        raise ValueError(f"out_channels={out} is neither in_channels={channels} nor twice that")
    low = 0.0 if config.get("center_input_sample") else -1.0
    wrapped: dict[str, Any] = {"data_range": (low, 1.0)}
    fourier = config.get("time_embedding_type", "positional") == "fourier"
    if scheduler and fourier != (scheduler.get("_class_name") == VE_SCHEDULER):
        raise ValueError(
            f"a network with {config.get('time_embedding_type')} embedding does not fit "
            f"{scheduler.get('_class_name')}: fourier goes with {VE_SCHEDULER} and only with it"
        )
    if fourier and double:
        raise ValueError(f"a network of VE has as many output channels as input, not {out}")
    if fourier:
        return wrapped | {"parameterization": "score"}
    if wrapped["data_range"] != (-1.0, 1.0):
        raise ValueError(
            "center_input_sample=true gives a network 2 x − 1, which is useful for VE only: "
            "chains of VP scale the data by α"
        )
    prediction = scheduler.get("prediction_type", "epsilon")
    check_choice("prediction_type", prediction, *PREDICTIONS)
    variance = scheduler.get("variance_type", "learned_range" if double else "fixed_small")
    if double != (variance == "learned_range") or variance == "learned":
        raise ValueError(
            f"variance_type={variance} does not go with {out} output channels for {channels}: "
            "learned_range has twice as many, fixed_small and fixed_large have as many, and "
            "learned, the logarithm itself, is not supported"
        )
    return wrapped | {"parameterization": PREDICTIONS[prediction], "learned_variance": double}


def assumed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler that is assumed for a network without one."""
    if config.get("time_embedding_type") == "fourier":
        return {"_class_name": VE_SCHEDULER}
    chain = {"num_train_timesteps": 1000, "beta_schedule": "linear"}
    return {"_class_name": "DDPMScheduler"} | chain


def scheduler(model: ScoreModel) -> tuple[dict[str, Any], str]:
    """The configuration of a scheduler for a model's process, and the name of the pipeline.

    Raises:
        ValueError: diffusers has no such process or parameterization; the message names it.
    """
    described = describe(model.sde)
    fields: dict[str, Any] = {"_diffusers_version": "0.35.0"}
    if described["_target_"] == "scoresde.sde.VE":
        if model.parameterization != "score":
            raise ValueError(f"diffusers' networks of VE predict σ s, not {model.parameterization}")
        _check_input(model, (0.0, 1.0), (-1.0, 1.0))
        if getattr(model.net, "embedding", None) is None or _is_positional(model):
            raise ValueError("diffusers' networks of VE have a Fourier embedding")
        ends = {name: described[name] for name in ("sigma_min", "sigma_max")}
        fields |= {"_class_name": VE_SCHEDULER, "num_train_timesteps": 2000, "snr": 0.15}
        return fields | ends | {"correct_steps": 1, "sampling_eps": 1e-5}, "ScoreSdeVePipeline"
    base = described.get("base", {})
    steps = model.sde.steps
    if steps is None or base.get("_target_") != "scoresde.sde.VP":
        raise ValueError(
            f"diffusers has chains of VP and the VE of continuous time, not {described}; "
            "sde=VP().discretize(1000) is DDPM's"
        )
    predictions = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if model.parameterization not in predictions:
        raise ValueError(
            f"diffusers' chains predict noise, data or v, not {model.parameterization}"
        )
    _check_input(model, (-1.0, 1.0))
    if not _is_positional(model):
        raise ValueError("diffusers' networks of chains have a positional embedding")
    fields |= {"_class_name": "DDPMScheduler", "num_train_timesteps": steps}
    fields["prediction_type"] = predictions[model.parameterization]
    if model.sde.zero_terminal_snr:  # sampling must start at the last level
        fields |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if model.learned_variance:
        fields["variance_type"] = "learned_range"
    schedule = base["schedule"]
    if schedule == describe(CosineSchedule()):
        return fields | {"beta_schedule": "squaredcos_cap_v2"}, "DDPMPipeline"
    names = {"LinearSchedule": "linear", "ScaledLinearSchedule": "scaled_linear"}
    kind = schedule["_target_"].removeprefix("scoresde.sde.")
    if kind not in names:
        raise ValueError(
            f"diffusers has linear, scaled linear and cosine schedules, not {schedule}"
        )
    ends = {"beta_start": schedule["beta_min"] / steps, "beta_end": schedule["beta_max"] / steps}
    return fields | ends | {"beta_schedule": names[kind]}, "DDPMPipeline"


def _check_input(model: ScoreModel, *allowed: tuple[float, float]) -> None:
    if model.c_noise != "process":
        raise ValueError(f"diffusers' networks have c_noise=process, not {model.c_noise}")
    if model.data_range not in allowed:
        raise ValueError(
            f"diffusers' pipeline of this process has data in {' or '.join(map(str, allowed))}, "
            f"not {model.data_range}"
        )


def _is_positional(model: ScoreModel) -> bool:
    net: Any = model.net
    return not list(net.embedding.embed.buffers())
