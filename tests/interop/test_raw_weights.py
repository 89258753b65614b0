"""`checkpoint_ema=false` and `--raw` select the raw weights of every format on the command line."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from scoresde.experiments import convert
from scoresde.experiments.build import build
from scoresde.experiments.command_line import CONF
from scoresde.experiments.pretrained import load_pretrained
from scoresde.experiments.resume import find_start
from scoresde.experiments.split import check_settings
from scoresde.experiments.tasks import Sample
from scoresde.interop import load, save_score_sde
from scoresde.models import ScoreModel, UNet
from scoresde.sde import VP
from scoresde.training import checkpoint
from tests.interop.test_weights import check, prefixed

POINTS = ["data=mixture", "model=mlp", "model.net.width=8", "sampler=ode", "data.n_test=8"]


def configuration(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The checkpoint of a training with a wrapped network, with raw and averaged weights."""
    folder = tmp_path_factory.mktemp("run")
    parts = build(configuration(*POINTS))
    with torch.no_grad():
        for parameter in parts.ema.model.parameters():
            parameter.add_(1.0)
    state = (parts.model, parts.ema, parts.optimizer, torch.Generator(), parts.config)
    path = checkpoint.save(folder / "checkpoints", 3, *state)
    saved = torch.load(path, weights_only=True)
    saved["model"] = prefixed("module.", saved["model"])
    saved["ema"]["model"] = prefixed("_orig_mod.module.", saved["ema"]["model"])
    torch.save(saved, path)
    path.with_suffix(".sha256").unlink()
    return folder, parts.model, parts.ema.model


@pytest.mark.parametrize("ema", [True, False])
def test_a_run_starts_with_the_weights_that_are_asked_for(ema, run, tmp_path):
    folder, raw, mean = run
    cfg = configuration(*POINTS, f"checkpoint={folder}", f"checkpoint_ema={str(ema).lower()}")
    parts = build(cfg)
    start = find_start(parts, tmp_path / "new")
    parts.ema.load_state_dict(start.state["ema"])
    check(parts.ema.model, mean if ema else raw)


def test_a_training_goes_on_whatever_wrapped_its_network(run, tmp_path):
    folder, raw, mean = run
    parts = build(configuration(*POINTS, f"resume={folder}"))
    start = find_start(parts, tmp_path / "new")
    model, ema = parts.model, parts.ema
    assert checkpoint.restore(start.state, model, ema, parts.optimizer, torch.Generator()) == 3
    check(model, raw)
    check(ema.model, mean)


def test_likelihoods_of_both_weights_are_not_mixed(run, tmp_path):
    folder, _, _ = run
    cfg = [*POINTS, "task=likelihood", f"checkpoint={folder}"]
    file = next((folder / "checkpoints").glob("*.pt"))
    check_settings(build(configuration(*cfg)), file, tmp_path)
    with pytest.raises(ValueError, match=r"by other settings \(checkpoint_ema\)"):
        check_settings(build(configuration(*cfg, "checkpoint_ema=false")), file, tmp_path)


def test_other_formats_are_read_as_they_are_asked_for(tmp_path):
    net = UNet((1, 8, 8), nf=8, ch_mult=(1,), num_res_blocks=1)
    path = save_score_sde(ScoreModel(net, VP(), data_range=(-1.0, 1.0)), tmp_path / "c.pth")
    saved = torch.load(path, weights_only=True)
    saved["ema"]["shadow_params"] = [tensor + 1 for tensor in saved["ema"]["shadow_params"]]
    torch.save(saved, path)
    given = ("task=sample", f"checkpoint={path}")
    raw = configuration(*given, "checkpoint_ema=false")
    check(load_pretrained(raw, Sample()), load(path, ema=False))
    check(load_pretrained(configuration(*given), Sample()), load(path))
    assert not torch.equal(next(load(path).parameters()), next(load(path, ema=False).parameters()))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["checkpoint_ema=false"], "checkpoint_ema=false belongs to checkpoint=PATH"),
        (["checkpoint_ema=maybe"], "checkpoint_ema must be true or false, got 'maybe'"),
        (
            ["task=sample", "checkpoint={m}", "checkpoint_ema=false"],
            "checkpoint_ema=false or --raw",
        ),
        (["task=sample", "checkpoint={raw}"], "use ema=False in Python, checkpoint_ema=false for"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(overrides, sentence, tmp_path):
    net = UNet((1, 8, 8), nf=8, ch_mult=(1,), num_res_blocks=1)
    model = ScoreModel(net, VP(), data_range=(-1.0, 1.0))
    path = save_score_sde(model, tmp_path / "c.pth")
    saved = torch.load(path, weights_only=True)
    torch.save(saved["model"], path)
    places = {"m": model.save(tmp_path / "m"), "raw": path}
    with pytest.raises(ValueError, match=sentence):
        build(configuration(*(one.format(**places) for one in overrides)))


def test_every_sentence_names_what_its_reader_can_type(tmp_path, capsys):
    net = UNet((1, 8, 8), nf=8, ch_mult=(1,), num_res_blocks=1)
    path = save_score_sde(ScoreModel(net, VP(), data_range=(-1.0, 1.0)), tmp_path / "c.pth")
    saved = torch.load(path, weights_only=True)
    torch.save(saved["model"], path)
    with pytest.raises(SystemExit):
        convert.main([str(path), str(tmp_path / "out"), "--to", "native"])
    said = capsys.readouterr().err
    for form in ("ema=False", "checkpoint_ema=false", "--raw"):
        assert form in said
    convert.main([str(path), str(tmp_path / "out"), "--to", "native", "--raw"])
    check(load(tmp_path / "out"), load(path, ema=False))
