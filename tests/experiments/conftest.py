"""Fixtures that make runs cheap in tests: what many runs compute alike is computed once."""

import os
import pickle

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobRuntime

from scoresde.evaluation import plots
from scoresde.evaluation.features import DigitClassifier
from tests.places import ROOT

# Pickled results outlive the fixture, since other tests may run between those of this folder.
KNOWN = {"compositions": {}, "files": {}, "classifiers": {}}


def read(load):
    """Wrap the method so that it reads each file of a configuration once."""
    known = KNOWN["files"]

    def recall(self, config_path):
        place = (config_path, *(source.path for source in self.get_sources()))
        if place not in known:
            known[place] = pickle.dumps(load(self, config_path))
        return pickle.loads(known[place])

    return recall


def composed(load):
    """Wrap the method so that it composes each configuration once, and sets the run's own part.

    Hydra reads conf/ as a folder and as part of the package, and before a run also as for a sweep.
    """
    known = KNOWN["compositions"]

    def recall(self, config_name, overrides, run_mode, *flags, **named):
        whole = (config_name, overrides, run_mode, *flags)
        if any(set(override) & set(",([{*'\" ") for override in overrides):
            return load(self, *whole, **named)  # sweeps differ from runs
        own = [o for o in overrides if o.startswith(("hydra.run.dir=", "hydra.mode="))]
        rest = [o for o in overrides if o not in own]
        path = str(self.config_search_path).replace("pkg://scoresde/conf", str(ROOT / "conf"))
        place = (path, os.getcwd(), config_name, *rest)
        if place not in known:
            known[place] = pickle.dumps(load(self, config_name, rest, run_mode, *flags, **named))
        config = pickle.loads(known[place])
        parsed = OverridesParser.create().parse_overrides(own)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
        config.hydra.overrides.hydra.extend(own)
        config.hydra.job.name = JobRuntime().get("name")
        return config

    return recall


def fitted(fit):
    """Wrap the method so that it trains once for each seed and each set of images."""
    known = KNOWN["classifiers"]

    def recall(self, images, labels):
        question = pickle.dumps((self.levels, self.seed, images, labels))
        if question not in known:
            known[question] = pickle.dumps(vars(fit(self, images, labels)))
        vars(self).update(pickle.loads(known[question]))
        return self

    return recall


def bare(figure):
    """Replace the function by one whose figures have few pixels, no axis labels and no layout."""

    def draw(panels, size, **_):
        whole, row = figure(panels, size, dpi=100)
        whole.set_layout_engine("none")
        for axes in row:
            axes.xaxis.set_visible(False)
            axes.yaxis.set_visible(False)
        return whole, row

    return draw


@pytest.fixture(scope="package", autouse=True)
def cheap_runs():
    """Configurations and trained classifiers are cached, and pictures have few dots and pixels.

    Hydra composes the configuration of a run four times, which takes 85 ms each, and a classifier
    of the digits, which is the same for the same images and seed, trains in 1.5 s.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_DENSITY_GRID", 16)
        patch.setattr(plots, "_figure", bare(plots._figure))
        patch.setattr(
            ConfigLoaderImpl, "load_configuration", composed(ConfigLoaderImpl.load_configuration)
        )
        patch.setattr(ConfigRepository, "load_config", read(ConfigRepository.load_config))
        patch.setattr(DigitClassifier, "fit", fitted(DigitClassifier.fit))
        yield
