"""Settings of a run as plain values: copied, changed, shrunk and compared."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

# Two steps of everything, for `dry_run=true`.
DRY: dict[str, Any] = {
    "train.steps": 2,
    "train.batch_size": 4,
    "train.checkpoint_every": 1,
    "train.log_every": 1,
    "evaluate.samples.count": 4,
    "evaluate.samples.pictures": 4,
    "evaluate.samples.frames": 3,
    "evaluate.scored": 2,
    "evaluate.likelihood.rtol": 0.1,
    "evaluate.likelihood.atol": 0.1,
    "conditioning.images": 2,
    "conditioning.samples": 2,
    "conditioning.repeats": 1,
    "conditioning.method.particles": 2,
    "conditioning.method.iterations": 1,
    "conditioning.method.resamplings": 2,
    "conditioning.method.jump": 1,
    "conditioning.method.steps": 2,
    "conditioning.method.flow_steps": 1,
    "conditioning.method.rounds": 6,
    "conditioning.method.decay": 0.1,
    "task.images": 2,
    "task.draws": 2,
    "sampler.steps": 2,
    "sampler.rtol": 0.1,
    "sampler.atol": 0.1,
}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A configuration, or a section of one, as resolved dicts, lists, strings and numbers."""
    whole: Any = OmegaConf.to_container(cfg, resolve=True)
    return {str(key): value for key, value in whole.items()}


def changed(cfg: DictConfig, **sections: Any) -> DictConfig:
    """A copy of a configuration with other sections, given as plain values."""
    whole: Any = OmegaConf.to_container(cfg)
    return OmegaConf.create(whole | sections)


def shrunk(cfg: DictConfig) -> DictConfig:
    """A copy of a configuration by which a run takes two steps of everything."""
    small = cfg.copy()
    known = keys(cfg)
    for key, value in DRY.items():
        if key in known:
            OmegaConf.update(small, key, value)
    return small


def asked() -> list[str]:
    """What the command line of this run asks for; nothing where it has none."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def keys(config: DictConfig) -> dict[str, Any]:
    """Dotted names of all keys, with what they have in the configuration, not resolved."""
    return dict(nodes(OmegaConf.to_container(config)))


def nodes(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a tree of dicts and lists, with the section, list or value of each."""
    if not isinstance(tree, dict | list):
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield f"{prefix}{key}", value
        yield from nodes(value, f"{prefix}{key}.")


def differences(
    old: Any, new: Any, matters: Callable[[str], bool] = lambda key: True
) -> dict[str, tuple[Any, Any]]:
    """Dotted keys that matter and whose values differ, with both of them.

    A key that is missing, as those of an old run may be, counts as off.
    """
    was, now = (
        {key: value for key, value in nodes(tree) if not isinstance(value, dict | list)}
        for tree in (old, new)
    )
    pairs = {key: (was.get(key), now.get(key)) for key in sorted(was | now) if matters(key)}
    return {key: (a, b) for key, (a, b) in pairs.items() if (a or None) != (b or None)}


def within(sections: Iterable[str]) -> Callable[[str], bool]:
    """Whether a dotted key is one of some sections, or lies in one of them."""
    known = tuple(sections)
    return lambda key: any(key == one or key.startswith(f"{one}.") for one in known)
