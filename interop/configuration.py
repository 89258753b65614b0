"""The configurations of score-SDE, with its own field names, and the models they describe.

{"model": {"name": "ncsnpp", "nf": 128, …}, "data": {"image_size": 32, …},
 "training": {"sde": "vesde", "continuous": true}}
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scoresde.models import RefineNet, ScoreModel, UNet
from scoresde.sde import SDE, VE, VP, SubVP, describe
from scoresde.sde.checks import check_choice

# Fields of both kinds of U-Net that have the same name here, and those of NCSN++.
DDPM_FIELDS = ("nf", "ch_mult", "num_res_blocks", "dropout", "resamp_with_conv")
SAME = (
    *(*DDPM_FIELDS, "fir", "fir_kernel", "skip_rescale", "resblock_type", "progressive"),
    *("progressive_input", "progressive_combine", "embedding_type", "fourier_scale", "init_scale"),
)
# Options of DDPM's own class, which has no such fields.
DDPM = {"resblock_type": "ddpm", "skip_rescale": False, "channels_per_group": 1}
# Options that are the same in all networks of score-SDE.
FIXED: dict[str, Any] = {
    "attn_up": "last",
    "attn_middle": True,
    "head_dim": None,
    "pad_symmetric": False,
    "frequency_shift": 1,
    "max_groups": 32,
    "groups": None,
    "norm_eps": 1e-6,
}
# Default constants of its processes.
CONSTANTS: dict[str, Any] = {
    "sigma_min": 0.01,
    "sigma_max": 50.0,
    "num_scales": 1000,
    "beta_min": 0.1,
    "beta_max": 20.0,
}
# Widths and dilations of the levels of the RefineNets.
REFINE_NETS: dict[str, tuple[list[int], list[int]]] = {
    "ncsn": ([1, 2, 2, 2], [1, 1, 2, 4]),
    "ncsnv2_64": ([1, 2, 2, 2], [1, 1, 2, 4]),
    "ncsnv2_128": ([1, 2, 2, 4, 4], [1, 1, 1, 2, 4]),
    "ncsnv2_256": ([1, 2, 2, 2, 4, 4], [1, 1, 1, 1, 2, 4]),
}
# Fields that are necessary to identify a network.
NEEDED = ("ch_mult", "num_res_blocks", "resamp_with_conv")
NEEDED_PLUS = (
    *("fir", "skip_rescale", "resblock_type", "progressive", "progressive_input"),
    "embedding_type",
)


def meaning(config: Mapping[str, Any]) -> tuple[nn.Module, SDE, dict[str, Any]]:
    """The network on the meta device, its process, and the other arguments of a ScoreModel.

    Raises:
        ValueError: The configuration describes a network or a process that is not supported.
    """
    data, sde = config["data"], _process(config)
    wrapped: dict[str, Any] = {"data_range": (-1.0, 1.0) if data["centered"] else (0.0, 1.0)}
    wrapped |= _output(config)
    with torch.device("meta"):
        net = _network(config)
    return net, sde, wrapped


def configuration(model: ScoreModel) -> dict[str, Any]:
    """The configuration of a model.

    Raises:
        ValueError: score-SDE has no such network or process; the message names the difference.
    """
    if model.learned_variance or model.features is not None:
        raise ValueError("score-SDE has no learned variances and no Fourier features of images")
    config: dict[str, Any] = _network_fields(model.net)
    process = _process_fields(model)
    config["model"] |= process["model"]
    config["training"] = process["training"]
    config["data"]["centered"] = {(-1.0, 1.0): True, (0.0, 1.0): False}.get(
        model.data_range or (0.0, 0.0)
    )
    if config["data"]["centered"] is None:
        raise ValueError(f"score-SDE has data in [-1, 1] or [0, 1], not {model.data_range}")
    made, sde, wrapped = meaning(config)
    same = ScoreModel(made, sde, **wrapped).description() | {"net": None}
    if same != model.description() | {"net": None}:
        raise ValueError(
            "score-SDE has noise predictions for VP and sub-VP, scores for VE, and DDPM's or "
            f"NCSN's chains; not {model.parameterization} of {describe(model.sde)}"
        )
    return config


def refine_name(options: Mapping[str, Any]) -> str:
    """The name of the RefineNet with these arguments in score-SDE.

    Raises:
        ValueError: score-SDE has no such network.
    """
    levels = (list(options["widths"]), list(options["dilations"]))
    labelled = options["num_levels"] is not None
    for name, known in REFINE_NETS.items():
        if known == levels and labelled == (name == "ncsn"):
            return name
    raise ValueError(f"score-SDE has no RefineNet with widths and dilations {levels}")


def _get(config: Mapping[str, Any], name: str) -> Any:
    if name not in config["model"]:
        raise ValueError(f"the configuration of {config['model']['name']} lacks model.{name}")
    return config["model"][name]


def _process(config: Mapping[str, Any]) -> SDE:
    kind, continuous = str(config["training"]["sde"]).lower(), config["training"]["continuous"]
    check_choice("training.sde", kind, "vesde", "vpsde", "subvpsde")
    if kind == "vesde":
        sde: SDE = VE(_get(config, "sigma_min"), _get(config, "sigma_max"))
    else:
        family = VP if kind == "vpsde" else SubVP
        sde = family(_get(config, "beta_min"), _get(config, "beta_max"))
    return sde if continuous or kind == "subvpsde" else sde.discretize(_get(config, "num_scales"))


def _output(config: Mapping[str, Any]) -> dict[str, Any]:
    """The parameterization of the network's output, and the labels of its noise levels."""
    name, continuous = str(config["model"]["name"]).lower(), config["training"]["continuous"]
    fourier = name == "ncsnpp" and config["model"].get("embedding_type") == "fourier"
    if name in REFINE_NETS and (continuous or config["training"]["sde"].lower() != "vesde"):
        raise ValueError(f"{name} needs NCSN's chain: training.sde=vesde, continuous=false")
    if str(config["training"]["sde"]).lower() != "vesde":
        if not config["data"]["centered"]:
            raise ValueError(
                "score-SDE gives its networks 2 x − 1 where data.centered=false, which is useful "
                "for VE only: VP and sub-VP scale the data by α, and it must be true"
            )
        if fourier:
            raise ValueError("Fourier embeddings are of log σ: they need training.sde=vesde")
        if config["model"].get("scale_by_sigma"):
            raise ValueError("scale_by_sigma divides by the σ of VE: it needs training.sde=vesde")
        return {"parameterization": "noise"}
    if continuous != fourier:
        raise ValueError(
            "a continuous VE needs embedding_type=fourier, which is of log σ, a chain positional"
        )
    # NCSNv2 divides by σ for any configuration, NCSN never does.
    divides = _get(config, "scale_by_sigma") if name in ("ncsnpp", "ddpm") else None
    scaled = name != "ncsn" and (divides or name in REFINE_NETS)
    told = {} if continuous else {"c_noise": "descending"}
    return {"parameterization": "score" if scaled else "raw_score"} | told


def _network(config: Mapping[str, Any]) -> nn.Module:
    model, data = config["model"], config["data"]
    name = str(model["name"]).lower()
    shape = (data["num_channels"], data["image_size"], data["image_size"])
    if name in REFINE_NETS:
        norm = model.get("normalization", "InstanceNorm++")
        if norm != "InstanceNorm++":
            raise ValueError(f"model.normalization must be InstanceNorm++ for {name}, got {norm}")
        widths, dilations = REFINE_NETS[name]
        labels = {"num_levels": _get(config, "num_scales") if name == "ncsn" else None}
        act = str(model.get("nonlinearity", "elu")).lower()
        return RefineNet(shape, model["nf"], widths, dilations, **labels, activation=act)
    check_choice("model.name", name, "ncsnpp", "ddpm", *REFINE_NETS)
    for field, only in (("nonlinearity", "swish"), ("normalization", "groupnorm")):
        if str(model.get(field, only)).lower() != only:
            raise ValueError(f"model.{field} must be {only} for {name}, got {model[field]}")
    if not model.get("conditional", True):
        raise ValueError("networks without a noise label (model.conditional=false) are not read")
    plus = name == "ncsnpp"
    needed = {
        **dict.fromkeys(NEEDED, True),
        **dict.fromkeys(NEEDED_PLUS, plus),
        "fir_kernel": plus and model.get("fir"),
        "progressive_combine": plus and model.get("progressive_input") == "input_skip",
        "attn_resolutions": "attn_levels" not in model,
    }
    for field in (name for name, necessary in needed.items() if necessary):
        _get(config, field)
    fields = ("attn_levels", *(SAME if plus else DDPM_FIELDS))
    options = {field: model[field] for field in fields if field in model}
    options |= {} if plus else DDPM
    return UNet(shape, attn_resolutions=model.get("attn_resolutions", ()), **options)


def _network_fields(net: nn.Module) -> dict[str, Any]:
    """The sections `model` and `data` for a network."""
    if isinstance(net, RefineNet):
        options = describe(net)
        fields = {"nf": options["nf"], "nonlinearity": options["activation"]}
        fields |= {"name": refine_name(options), "normalization": "InstanceNorm++"}
        return {"model": fields, "data": _size(*net.shape)}
    if not isinstance(net, UNet):
        raise ValueError(f"score-SDE has no network like {type(net).__name__}")
    options = describe(net)
    for name, only in FIXED.items():
        unused = name == "attn_up" and not any(net.attend)
        if options[name] != only and not unused:
            raise ValueError(f"score-SDE's networks have {name}={only}, not {options[name]}")
    if net.out_channels != net.shape[0]:
        raise ValueError(f"score-SDE's networks have as many channels out, not {net.out_channels}")
    ddpm = all(options[name] == value for name, value in DDPM.items())
    own: dict[str, Any] = {"channels_per_group": 4}
    if ddpm:
        own = {"fir": False, "progressive": "none", "progressive_input": "none"}
        own |= {"embedding_type": "positional"}
    for name, only in own.items():
        if options[name] != only:
            kind = "DDPM" if ddpm else "NCSN++"
            raise ValueError(f"score-SDE's {kind} has {name}={only}, not {options[name]}")
    if not options["noise_conditional"]:
        raise ValueError("networks without a noise label are not written for score-SDE")
    size = _size(*net.shape)
    fields = {name: options[name] for name in (DDPM_FIELDS if ddpm else SAME)}
    attended = [size["image_size"] >> level for level, on in enumerate(net.attend) if on]
    fields |= {"attn_resolutions": attended, "normalization": "GroupNorm"}
    fields |= {"nonlinearity": "swish", "conditional": True}
    return {"model": {"name": "ddpm" if ddpm else "ncsnpp"} | fields, "data": size}


def _size(channels: int, height: int | None, width: int | None) -> dict[str, Any]:
    if height is None or height != width:
        raise ValueError(
            f"score-SDE's networks are for square images of one size, this one is for "
            f"{height} × {width}; load it with a configuration that states the size"
        )
    return {"image_size": height, "num_channels": channels}


def _process_fields(model: ScoreModel) -> dict[str, Any]:
    """The sections `model` and `training` for a process."""
    described = describe(model.sde)
    steps = model.sde.steps
    if model.sde.zero_terminal_snr:
        raise ValueError("score-SDE has no chain whose last level is noise alone")
    base = described["base"] if steps is not None and "base" in described else described
    fields: dict[str, Any] = CONSTANTS | {"num_scales": steps or CONSTANTS["num_scales"]}
    kinds = {f"scoresde.sde.{name}": f"{name.lower()}sde" for name in ("VE", "VP", "SubVP")}
    schedule = base.get("schedule") or {"_target_": "scoresde.sde.LinearSchedule"}
    if base["_target_"] not in kinds or schedule["_target_"] != "scoresde.sde.LinearSchedule":
        raise ValueError(f"score-SDE has VE, and VP and sub-VP with a linear β, not {described}")
    kind = kinds[base["_target_"]]
    constants = base if kind == "vesde" else schedule
    fields |= {name: value for name, value in constants.items() if name in fields}
    fields["scale_by_sigma"] = model.parameterization == "score"
    fields["ema_rate"] = 0.999 if kind == "vesde" else 0.9999
    return {"model": fields, "training": {"sde": kind, "continuous": steps is None}}
