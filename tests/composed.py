"""Configurations as Hydra composes them, for tests of single choices."""

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from .places import ROOT


def composed(group: str, name: str) -> Any:
    """The settings of one choice of a group, with those of the choice that it builds on."""
    with initialize_config_dir(str(ROOT / "conf" / group), version_base="1.3"):
        return OmegaConf.to_container(compose(name), resolve=False)
