"""task=likelihood: parts, interruptions, shards, and comparisons between data."""

import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.evaluation.plots import save_histograms
from scoresde.evaluation.typicality import auroc, typicality
from scoresde.experiments import split
from scoresde.models import ScoreModel
from scoresde.sde import VP
from tests.experiments.test_run import POINTS, call, fails

TINY = ["model.net.nf=4", "model.net.num_res_blocks=1", "train.steps=2", "train.batch_size=8"]
FEW = [
    "evaluate.samples.count=4",
    "evaluate.samples.pictures=4",
    "evaluate.samples.frames=3",
    "evaluate/quality=none",
]
SCORE = ["task=likelihood", "evaluate.scored=6", "evaluate.batch_size=2"]
LOOSE = ["evaluate.likelihood.rtol=0.1", "evaluate.likelihood.atol=0.1"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on the digits that is hardly trained."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    with pytest.MonkeyPatch.context() as patch:
        call(patch, folder, *TINY, *FEW, "sampler.steps=2", "evaluate/likelihood=none")
    return folder


def score(monkeypatch, digits, folder, *arguments):
    checkpoint = f"checkpoint={digits}"
    return call(monkeypatch, folder, checkpoint, *TINY, *SCORE, *LOOSE, *arguments)


def saved(folder):
    with np.load(folder / "likelihood.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.slow
def test_a_split_is_scored_in_parts(tmp_path, monkeypatch, digits):
    result = score(
        monkeypatch, digits, tmp_path / "run", "evaluate.bounds.vlb=10", "evaluate.bounds.terms=3"
    )
    assert result["likelihood_samples"] == 6 and result["bound"] is True
    assert result["dequantization"] == "uniform" and result["levels"] == 17
    assert result["vlb"]["terms"] == 3 and result["vlb"]["bits_per_dim"] > 0
    columns = saved(tmp_path / "run")
    assert columns["index"].tolist() == list(range(6))
    bits = -columns["log_prob"] / (64 * math.log(2))
    np.testing.assert_allclose(columns["bits_per_dim"], bits, rtol=1e-12)
    assert result["bits_per_dim"] == pytest.approx(bits.mean())
    assert result["bits_per_dim_error"] == pytest.approx(bits.std(ddof=1) / math.sqrt(6))
    parts = sorted(path.name for path in (tmp_path / "run" / "likelihood").glob("*.npz"))
    assert parts == ["0000000.npz", "0000002.npz", "0000004.npz"]
    with Image.open(tmp_path / "run" / "likelihood.png") as picture:
        assert picture.size[0] > 300


@pytest.mark.slow
def test_an_interrupted_run_continues_where_it_stopped(tmp_path, monkeypatch, digits):
    """It stops after two parts of three; repeated, the command gives equal numbers."""
    whole = score(monkeypatch, digits, tmp_path / "whole")
    done, evaluate = [], split.Evaluator.__call__

    def stops(self, raw, index, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(index)
        return evaluate(self, raw, index, **options)

    with monkeypatch.context() as patch:
        patch.setattr(split.Evaluator, "__call__", stops)
        with pytest.raises(SystemExit) as stop:
            score(monkeypatch, digits, tmp_path / "run")
    assert stop.value.code == 130
    assert not (tmp_path / "run" / "result.json").exists()
    # A part that was cut off in the middle does not count.
    path = tmp_path / "run" / "likelihood" / "0000002.npz"
    path.write_bytes(path.read_bytes()[:100])
    again = []

    def counts(self, raw, index, **options):
        again.append(index)
        return evaluate(self, raw, index, **options)

    with monkeypatch.context() as patch:
        patch.setattr(split.Evaluator, "__call__", counts)
        result = score(monkeypatch, digits, tmp_path / "run")
    assert again == [[2, 3], [4, 5]]
    assert result["bits_per_dim"] == pytest.approx(whole["bits_per_dim"], rel=1e-6)
    for name, column in saved(tmp_path / "run").items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(column, saved(tmp_path / "whole")[name], rtol=1e-6)


@pytest.mark.slow
def test_a_damaged_part_of_another_shard_is_missing(tmp_path, monkeypatch, capsys, digits):
    """The remaining parts are not joined as if they were the whole."""
    shards = ["task.shards=2", "task.shard=1"]
    with pytest.raises(FileNotFoundError):
        score(monkeypatch, digits, tmp_path / "run", *shards)
    path = tmp_path / "run" / "likelihood" / "0000002.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FileNotFoundError):
        score(monkeypatch, digits, tmp_path / "run", "task.shards=2")
    assert "1 parts are left to other shards" in capsys.readouterr().out
    result = score(monkeypatch, digits, tmp_path / "run", *shards)
    assert result["likelihood_samples"] == 6
    assert saved(tmp_path / "run")["index"].tolist() == list(range(6))
    done = [f"checkpoint={digits}", *TINY, *SCORE, *LOOSE, *shards]
    assert "already holds a result.json" in fails(capsys, monkeypatch, tmp_path / "run", *done)


@pytest.mark.slow
def test_parts_are_of_one_checkpoint(tmp_path, monkeypatch, capsys, digits):
    """A run that has trained on, or another one in its folder, is not mixed in."""
    copy = tmp_path / "copy"
    shutil.copytree(digits, copy)
    with pytest.raises(FileNotFoundError):
        score(monkeypatch, copy, tmp_path / "run", "task.shards=2")
    file = max((copy / "checkpoints").glob("step_*.pt"))
    state = torch.load(file, weights_only=True)
    next(iter(state["ema"]["model"].values())).add_(1)
    torch.save(state, file)
    file.with_suffix(".sha256").unlink()
    arguments = [f"checkpoint={copy}", *TINY, *SCORE, *LOOSE, "task.shards=2"]
    sentence = fails(capsys, monkeypatch, tmp_path / "run", *arguments)
    assert "holds likelihoods by other settings (weights)" in sentence


@pytest.mark.slow
def test_bounds_may_be_asked_for_later_and_in_batches(tmp_path, monkeypatch, digits):
    """They change no part, and six samples in batches of two give the values of six at once."""
    with pytest.raises(FileNotFoundError):
        score(monkeypatch, digits, tmp_path / "run", "task.shards=2")
    bounds = ["evaluate.bounds.elbo=true", "evaluate.bounds.terms=3"]
    late = ["task.shards=2", "task.shard=1", *bounds]
    parts = score(monkeypatch, digits, tmp_path / "run", *late)
    whole = score(monkeypatch, digits, tmp_path / "whole", *bounds, "evaluate.batch_size=6")
    assert parts["elbo"]["samples"] == 6
    assert parts["elbo"]["bits_per_dim"] == pytest.approx(whole["elbo"]["bits_per_dim"], rel=1e-5)


@pytest.mark.parametrize(
    "settings, sentence",
    [
        (
            ["evaluate/likelihood/divergence=hutchpp", "evaluate.likelihood.divergence.probes=4"],
            "must be a multiple of 3, got 4",
        ),
        (
            ["evaluate/likelihood/divergence=hutchpp", "evaluate.likelihood.divergence.probes=300"],
            "takes at most 192 probes",
        ),
        (["sde=ncsn", "evaluate.bounds.vlb=1000"], "1000 steps"),
    ],
)
def test_what_could_only_fail_at_the_end_fails_at_once(
    tmp_path, monkeypatch, capsys, settings, sentence
):
    assert sentence in fails(capsys, monkeypatch, tmp_path / "run", *TINY, *FEW, *settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_shards_share_the_work(tmp_path, monkeypatch, capsys, digits):
    whole = score(monkeypatch, digits, tmp_path / "whole")
    with pytest.raises(FileNotFoundError):  # no result.json exists yet
        score(monkeypatch, digits, tmp_path / "run", "task.shards=2", "task.shard=1")
    assert "2 parts are left to other shards" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "run" / "likelihood").glob("*.npz")] == ["0000002.npz"]
    result = score(monkeypatch, digits, tmp_path / "run", "task.shards=2", "task.shard=0")
    assert result["bits_per_dim"] == pytest.approx(whole["bits_per_dim"], rel=1e-6)


@pytest.mark.slow
def test_an_edm_network_scores_by_another_process(tmp_path, monkeypatch, capsys, digits):
    """The flows are one flow in other clocks: with equal noise at eps, bits/dim agree to 1e-3."""
    arguments = [
        "evaluate.likelihood.rtol=1e-3",
        "evaluate.likelihood.atol=1e-3",
        "evaluate.likelihood.control_variate=false",
    ]
    vp = score(monkeypatch, digits, tmp_path / "vp", *arguments, "evaluate.eps=0.001")
    noise = (VP().sigma(torch.tensor(1e-3)) / VP().alpha(torch.tensor(1e-3))).item()
    edm = [*arguments, "sde=edm", f"evaluate.eps={noise}"]
    taken = score(monkeypatch, digits, tmp_path / "edm", *edm, "transfer=true")
    assert taken["bits_per_dim"] == pytest.approx(vp["bits_per_dim"], abs=1e-3)
    checkpoint = f"checkpoint={digits}"
    refused = fails(capsys, monkeypatch, tmp_path / "no", checkpoint, *TINY, *SCORE, *edm)
    assert "checkpoint SDE is VP, requested EDM; transfer=true takes" in refused
    for lacks in ((), (checkpoint, "model.c_noise=process")):
        sentence = fails(
            capsys, monkeypatch, tmp_path / "new", *TINY, *FEW, *lacks, "transfer=true"
        )
        assert "it needs checkpoint=RUN, model.parameterization=edm" in sentence


@pytest.mark.slow
def test_times_outside_of_the_training_are_named(tmp_path, monkeypatch, capsys):
    """The loss has a least time of its own, and the density that of the process."""
    times = ["loss=likelihood", "loss.times.eps=1e-2", "evaluate/likelihood=none"]
    call(monkeypatch, tmp_path / "train", *TINY, *FEW, "sampler.steps=2", *times)
    given = (f"checkpoint={tmp_path / 'train'}", *TINY, *SCORE, *LOOSE)
    capsys.readouterr()
    call(monkeypatch, tmp_path / "below", *given)
    assert "trained at times from 0.01, scored from 1e-05" in capsys.readouterr().out
    call(monkeypatch, tmp_path / "there", *given, "evaluate.eps=1e-2")
    assert "trained at times" not in capsys.readouterr().out


@pytest.mark.slow
def test_other_settings_are_not_mixed_in(tmp_path, monkeypatch, capsys, digits):
    with pytest.raises(FileNotFoundError):
        score(monkeypatch, digits, tmp_path / "run", "task.shards=2")
    arguments = [f"checkpoint={digits}", *TINY, *SCORE, *LOOSE, "seed=1"]
    sentence = fails(capsys, monkeypatch, tmp_path / "run", *arguments)
    assert "holds likelihoods by other settings (seed)" in sentence


@pytest.mark.slow
def test_other_data_are_distinguished(tmp_path, monkeypatch, digits):
    """White noise is compared with digits in a picture and by shares, the areas under curves."""
    folder = tmp_path / "noise"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    other = ["data@ood_data=folder", f"ood_data.root={folder}", "ood_data.channels=1"]
    with pytest.raises(SystemExit):
        score(monkeypatch, digits, tmp_path / "run", *other)  # there are 256 levels instead of 17
    points = call(
        monkeypatch,
        tmp_path / "points",
        *POINTS,
        "train.steps=2",
        "train.batch_size=8",
        *FEW,
        "evaluate/likelihood=none",
    )
    result = call(
        monkeypatch,
        tmp_path / "score",
        *POINTS,
        "train.steps=2",
        "train.batch_size=8",
        *SCORE,
        f"checkpoint={points['run_dir']}",
        "data@ood_data=moons",
        *LOOSE,
    )
    assert result["ood_data"]["data"] == "moons" and result["ood_data"]["samples"] == 6
    for kind in ("likelihood", "typicality"):
        assert 0 <= result["ood_data"][f"auroc_{kind}"] <= 1
    assert (tmp_path / "score" / "likelihood.png").exists()
    assert "log_likelihood" in result and "bound" not in result
    far = call(
        monkeypatch,
        tmp_path / "far",
        *POINTS,
        "train.steps=2",
        "train.batch_size=8",
        *SCORE,
        f"checkpoint={points['run_dir']}",
        *(
            "data@ood_data=mixture",
            "ood_data.means=[[9,9]]",
            "ood_data.weights=[1]",
            "ood_data.std=[1]",
        ),
        *LOOSE,
    )
    # Other data of the same name remain other data, and less likely data are more foreign.
    assert far["log_likelihood"] == result["log_likelihood"]
    assert far["ood_data"]["mean"] < far["log_likelihood"]
    assert far["ood_data"]["auroc_likelihood"] == 1


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["task=likelihood"], "task=likelihood scores a trained model; add checkpoint=RUN"),
        (["task.shards=2"], "unknown key 'task.shards'. Keys there: none"),
        (["task=likelihood", "task.shard=3"], "task.shard must be below task.shards=1, got 3"),
        (["data@ood_data=moons"], "data@ood_data belongs to task=likelihood, got task=generate"),
        (["data@ood_data=mooons"], "unknown data='mooons'. Did you mean data=moons?"),
        (["evaluate/likelihood/divergence=trace"], "divergence='trace'. Choices: auto, exact"),
        (["evaluate/likelihood/dequantization=x"], "dequantization='x'. Choices: truncated_normal"),
        (["evaluate.bounds.variance=learned"], "needs model.learned_variance=true"),
        (["evaluate.eps=7"], "eps must be in (0, T=1.0), got 7"),
        (["evaluate.bounds.vlb=1"], "evaluate.bounds.vlb must be an integer ≥ 2, got 1"),
        (["loss=hybrid"], "loss=hybrid trains a variance; add model.learned_variance=true"),
        (
            ["evaluate/likelihood/dequantization=variational"],
            "dequantization.flow must be the folder of a run of task=dequantizer, got null",
        ),
        (["task=dequantizer"], "trains a flow for a score; add task.score=RUN, got null"),
    ],
)
def test_wrong_input_ends_with_one_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    errors = fails(capsys, monkeypatch, tmp_path / "run", *arguments)
    assert sentence in errors
    assert not (tmp_path / "run").exists()


def test_typicality_and_the_area_under_the_curve():
    inside, outside = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 5.0])
    assert typicality(outside, inside).tolist() == [0.0, 3.0]
    # Pairs in which the outside value is higher: 2 > 1, 2 = 2 (half), 5 > all three: 4.5 of 6.
    assert auroc(inside, outside) == pytest.approx(0.75)
    assert auroc(outside, inside) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="must have shapes"):
        typicality(outside, inside[:0])


def test_histograms_refuse_what_they_cannot_show(tmp_path):
    with pytest.raises(ValueError, match="one to three sets"):
        save_histograms({}, tmp_path / "a.png", "bits/dim")
    assert not list(tmp_path.iterdir())


def test_samples_of_a_seed_do_not_depend_on_the_batch(tmp_path, monkeypatch, digits):
    """Six samples with noise have the same levels of grey in batches of 2 and of 6."""
    settings = [
        "task=sample",
        "evaluate.samples.count=6",
        "evaluate.samples.pictures=2",
        "sampler.steps=3",
    ]
    drawn = []
    for size in (2, 6):
        folder = tmp_path / f"{size}"
        call(monkeypatch, folder, f"checkpoint={digits}", *settings, f"evaluate.batch_size={size}")
        with np.load(folder / "samples.npz", allow_pickle=False) as file:
            drawn.append(file["samples"])
    np.testing.assert_array_equal(*drawn)
    assert len(np.unique(drawn[0], axis=0)) == 6


@pytest.mark.slow
def test_one_absurd_sample_does_not_stop_a_split(tmp_path, monkeypatch, digits):
    """Where the model is NaN for one of six images, five are scored and the sixth is counted."""
    evaluate = ScoreModel.score

    def spoiled(self, x, t):
        s = evaluate(self, x, t)
        return torch.where((x[:, :, 3:5, 3:5].mean((1, 2, 3), keepdim=True) > 0.9), torch.nan, s)

    monkeypatch.setattr(ScoreModel, "score", spoiled)
    with pytest.warns(UserWarning, match="of 2 samples have no likelihood, the first of them sam"):
        tolerances = ("evaluate.likelihood.rtol=0.01", "evaluate.likelihood.atol=0.01")
        result = score(monkeypatch, digits, tmp_path / "run", *tolerances)
    lost = int((~np.isfinite(saved(tmp_path / "run")["log_prob"])).sum())
    assert 0 < lost < 6
    assert result["likelihood_failed"] == lost and result["likelihood_samples"] == 6 - lost
    assert math.isfinite(result["bits_per_dim"])
