"""Runs with `conditioning=…`: every kind and method, what they promise, and what they refuse."""

import functools
import inspect
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from scoresde.data import GreyLevels, InMemory, Split
from scoresde.experiments.build import build
from scoresde.experiments.conditioning.masks import NAMES, known_pixels
from scoresde.experiments.conditioning.source import read_image
from scoresde.experiments.model import make
from scoresde.experiments.record import Record
from scoresde.experiments.samples import generate
from scoresde.experiments.settings import changed, plain
from scoresde.models import GaussianMixtureScore
from tests.experiments.runs import CONF, ends, start

NET = [
    *("model.net.nf=4", "model.net.ch_mult=[1]", "model.net.num_res_blocks=1"),
    *("model.net.attn_resolutions=[]", "train.batch_size=4", "evaluate/likelihood=none"),
]
TINY = [*NET, "sampler=ancestral", "sampler.steps=3", "evaluate.samples.frames=2"]
FEW = ["conditioning.images=2", "conditioning.samples=2"]
KINDS = sorted(path.stem for path in (CONF / "conditioning").glob("*.yaml"))
METHODS = sorted(path.stem for path in (CONF / "conditioning" / "method").glob("*.yaml"))
RESTORATIONS = [
    kind for kind in KINDS if "method" in (CONF / "conditioning" / f"{kind}.yaml").read_text()
]
# What a method needs to be small, or to exist at all.
SMALL = {
    "split_gibbs": ["conditioning.std=0.1", "conditioning.method.rounds=6", "decay=0.1"],
    "daps": ["conditioning.method.steps=2", "conditioning.method.flow_steps=1"],
    "dps_score": ["conditioning.std=0.1"],
    "tds": ["conditioning.method.particles=2"],
    "mcg_diff": ["conditioning.method.particles=2"],
    "mmps": ["conditioning.method.iterations=1"],
    "repaint": ["conditioning.method.jump=1", "conditioning.method.resamplings=2"],
    "ilvr": ["conditioning.method.factor=2"],
}


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(map(str, overrides)))


@functools.cache
def settings_of(*overrides):
    """Of a run of digits without a condition; composed once, since each takes 0.2 s."""
    return composed(*overrides)


def conditioning_of(*overrides):
    """The section `conditioning` alone, in a tenth of the time of the whole."""
    kind = next(one for one in overrides if one.startswith("conditioning=")).partition("=")[2]
    rest = [one for one in overrides if not one.startswith("conditioning=")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(f"conditioning/{kind}", overrides=rest).conditioning


def small(method):
    given = SMALL.get(method, [])
    return [one if "." in one.partition("=")[0] else f"conditioning.method.{one}" for one in given]


@functools.cache
def trainable(*overrides):
    """The parts of a run, which several runs with other conditions and samplers share."""
    return build(composed(*TINY, *overrides))


def parts_of(*overrides):
    """The parts of a run of digits, checked as when it is built."""
    steps = [one for one in TINY if "sampler=ode" not in overrides or "steps" not in one]
    if any(one.startswith(("data", "task", "sde", "checkpoint")) for one in overrides):
        return build(composed(*steps, *overrides))
    made = trainable(*(one for one in overrides if one == "condition=label"))
    own = [one for one in overrides if one.startswith("conditioning")]
    cfg = settings_of(*steps, *(one for one in overrides if one not in own))
    section = conditioning_of(*own) if own else cfg.conditioning
    parts = replace(
        made,
        cfg=changed(cfg, data=plain(made.cfg.data), conditioning=plain(section)),
        sampler=make(cfg.sampler),
        sampling=make(cfg.evaluate.samples),
        conditioning=make(section),
    )
    parts.conditioning.check(parts)
    return parts


def sampled(folder, *overrides, parts=None):
    """The entries of result.json and the samples of a run with its network as it begins."""
    folder.mkdir(exist_ok=True)
    parts = parts_of(*overrides) if parts is None else parts
    record = Record(folder, {})
    samples = generate(parts, parts.model.eval(), record)
    assert "failed" not in record.entries, record.entries["failed"]
    return record.entries, samples


def refused(*overrides):
    """The sentence with which a run is refused before any work."""
    errors = (ValueError, TypeError, FileNotFoundError, InstantiationException)
    with pytest.raises(errors) as error:
        parts_of(*overrides)
    said = str(error.value.__cause__ or error.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    "path", [*(CONF / "conditioning").glob("**/*.yaml")], ids=lambda path: path.stem
)
def test_the_configuration_lists_the_defaults_of_the_constructors(path):
    """The source is not a class of its own; parts that are chosen or wired are left to classes."""
    if path.parent.name == "source":
        return
    method = path.parent.name == "method"
    if method:
        leaf = conditioning_of("conditioning=inpaint", f"conditioning/method={path.stem}").method
    else:
        leaf = conditioning_of(f"conditioning={path.stem}")
    settings = OmegaConf.to_container(leaf)
    parameters = inspect.signature(get_object(settings.pop("_target_"))).parameters
    settings.pop("_partial_", None)
    settings.pop("method", None)
    assert settings.keys() <= parameters.keys()
    wired = {"measurement", "sampler", "predictor", "langevin", "grid", "method"}
    assert parameters.keys() - settings.keys() <= wired
    for key, value in settings.items():
        if not (key == "steps" and value is None):  # those of the sampler
            assert value == parameters[key].default, key


@pytest.mark.parametrize("kind", RESTORATIONS)
def test_every_restoration_runs(kind, tmp_path):
    more = [] if kind != "colorize" else colours(tmp_path)
    entries, samples = sampled(tmp_path / "run", f"conditioning={kind}", *FEW, *more)
    found = entries["conditioning"]
    assert samples.x.shape[0] == 4 and found["images"] == found["samples"] == 2
    assert found["consistency"] >= 0
    assert found["spread"]["gap_exact"] == pytest.approx(1.249, abs=1e-3)
    assert {"psnr_mean", "psnr_sample", "ssim_mean", "ssim_sample"} <= found.keys()
    with Image.open(tmp_path / "run" / "conditioning.png") as picture:
        assert picture.width > 2.5 * picture.height  # two rows of six columns


def colours(folder):
    """Settings of a run on colour images."""
    rng = np.random.default_rng(0)
    (folder / "colours").mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "colours" / f"{number}.png")
    return ["data=folder", f"data.root={folder / 'colours'}", "data.test_fraction=0.25"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(method, tmp_path):
    kind = "superres" if method == "ilvr" else "inpaint"
    overrides = [f"conditioning={kind}", f"conditioning/method={method}", *FEW, *small(method)]
    entries, samples = sampled(tmp_path, *overrides)
    assert entries["nfe"] > 0 and samples.x.isfinite().all()
    gradients = ("dps", "dps_score", "pigdm", "pigdm_score", "mmps", "tds")
    assert (entries.get("products", 0) > 0) == (method in gradients)


@pytest.mark.parametrize("method", ["replacement", "repaint", "ddrm", "pigdm", "pigdm_score"])
def test_known_pixels_are_returned_as_they_are(method, tmp_path):
    chosen = ["conditioning=inpaint", f"conditioning/method={method}"]
    parts = parts_of(*chosen, *FEW, *small(method))
    entries, samples = sampled(tmp_path, parts=parts)
    known = known_pixels("center", (1, 8, 8), 0.5, 0)
    truth = parts.data.scale(parts.data.test[:2]).repeat_interleave(2, 0)
    assert torch.equal(samples.x[:, known], truth[:, known])
    assert entries["conditioning"]["consistency"] == 0


def test_the_steps_and_the_grid_of_the_sampler_are_kept(tmp_path):
    ddrm = ["conditioning=inpaint", "conditioning/method=ddrm", "sampler/grid=half_log_snr"]
    parts = parts_of(*ddrm, *FEW)
    bound = parts.conditioning.bind(parts, parts.model)
    assert bound.sampler.steps == 3 and bound.sampler.grid is parts.sampler.grid
    parts = parts_of(*ddrm, *FEW, "conditioning.method.steps=5")
    assert parts.conditioning.bind(parts, parts.model).sampler.steps == 5


def test_samples_do_not_depend_on_the_batch(tmp_path):
    for overrides in (
        ["conditioning=superres"],
        ["conditioning=inpaint", "conditioning/method=ddnm"],
        ["conditioning=sdedit", "conditioning.mask=left"],
    ):
        _, whole = sampled(tmp_path, *overrides, *FEW)
        _, parts = sampled(tmp_path, *overrides, *FEW, "evaluate.batch_size=3")
        torch.testing.assert_close(whole.x, parts.x, atol=1e-4, rtol=1e-4)  # float32 networks


class Field(InMemory):
    """Images 4 × 4 from a Gaussian in cells that are small next to it."""

    def __init__(self, covariance):
        def part(name, count):
            generator = torch.Generator().manual_seed(count)
            z = torch.randn(count, 16, generator=generator, dtype=torch.float64)
            x = (z @ torch.linalg.cholesky(covariance).T).reshape(-1, 1, 4, 4)
            return Split(GreyLevels((-4, 4)).quantize(x), None)

        levels = GreyLevels((-4, 4))
        super().__init__("field", lambda: (part("train", 8), part("test", 40)), levels)


def test_the_measures_of_exact_posteriors_are_those_of_a_calibrated_method(tmp_path):
    """On a Gaussian MMPS has the score of the posterior."""
    where = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    covariance = 0.5 * (-torch.cdist(where, where).square() / 4.5).exp() + 0.05 * torch.eye(16)
    settings = ["sampler.steps=40", "sampler/grid=half_log_snr", "conditioning.samples=4"]
    settings += ["conditioning.images=40", "conditioning=superres", "conditioning.std=0.2"]
    settings += ["conditioning/method=mmps", "conditioning.method.iterations=5"]
    made = parts_of(*settings)
    score = GaussianMixtureScore(made.sde, torch.ones(1), torch.zeros(1, 16), covariance[None])
    score.net = nn.Identity()
    score.eval = lambda: score
    parts = replace(made, data=Field(covariance), model=score)
    entries, _ = sampled(tmp_path, parts=parts)
    found = entries["conditioning"]
    # 40 images of some 10 free coordinates each: the errors of their means are known to 7 %.
    assert found["spread"]["ratio"] == pytest.approx(1, abs=0.25)
    assert found["spread"]["gap"] == pytest.approx(found["spread"]["gap_exact"], abs=0.4)
    assert found["spread"]["rank_distance"] < 0.06
    assert found["consistency"] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "settings",
    [
        ["conditioning.scale=3", "conditioning.label=3"],
        ["conditioning.strength=1", "conditioning.negative=4", "conditioning.label=[2,5]"],
        ["conditioning.interval=[0.2,1.6]", "conditioning.threshold=dynamic"],
        ["conditioning.rescale=0.7", "conditioning.threshold=static"],
        ["conditioning.particles=2", "conditioning.label=3"],
    ],
    ids=lambda settings: settings[-1],
)
def test_classifier_free_guidance_runs(settings, tmp_path):
    overrides = ["conditioning=classifier_free", "condition=label", "evaluate.samples.count=4"]
    entries, samples = sampled(tmp_path, *overrides, *settings)
    assert samples.x.isfinite().all() and (tmp_path / "conditioning.png").is_file()
    wanted = {"label=3": [3], "label=[2,5]": [2, 5], "threshold=dynamic": [0, 1, 2, 3]}
    last = settings[-1].removeprefix("conditioning.")
    assert entries["conditioning"]["labels"] == wanted.get(last, [0, 1, 2, 3])
    assert entries["conditioning"]["scale"] == (3 if "scale=3" in settings[0] else None)


def test_scale_one_is_the_conditional_model(tmp_path):
    plain = ["condition=label", "condition.draw=[7]", "evaluate.samples.count=3"]
    _, model = sampled(tmp_path, *plain)
    guided = ["conditioning=classifier_free", "conditioning.label=7", "conditioning.scale=1"]
    _, one = sampled(tmp_path, *plain, *guided)
    torch.testing.assert_close(one.x, model.x)
    assert one.nfe == model.nfe


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run of digits without classes, two steps long."""
    folder = tmp_path_factory.mktemp("other") / "run"
    start(folder, *TINY, "train.steps=2", "evaluate.samples.count=2", "evaluate/quality=none")
    return folder


def test_models_of_other_runs_guide_and_translate(other, tmp_path):
    auto = ["conditioning=autoguidance", f"conditioning.bad={other}", "evaluate.samples.count=4"]
    entries, _ = sampled(tmp_path, *auto)
    assert entries["nfe"] == 6 and entries["conditioning"]["scale"] == 2
    ddib = ["conditioning=ddib", f"conditioning.target={other}", "conditioning.images=2"]
    ddim = ["sampler=ddim", "sampler.steps=10"]
    entries, _ = sampled(tmp_path, *ddib, *ddim)
    assert entries["nfe"] == 20 and entries["conditioning"]["cycle_error"] < 0.5
    assert "draws noise" in refused(*ddib)
    assert "trained with sde" in refused(*auto, "sde=subvp")


def test_classifiers_of_other_runs_guide(other, tmp_path):
    learn = ["task=classifier", "condition=label", "classifier.width=4", "train.steps=2"]
    noisy = tmp_path / "classifier"
    start(noisy, *learn, "train.batch_size=4", "evaluate.samples.count=5")
    by = ["conditioning=classifier", f"conditioning.classifier={noisy}", "conditioning.label=3"]
    entries, _ = sampled(tmp_path, *by, "evaluate.samples.count=4")
    assert entries["nfe"] == 6 and entries["products"] == 3
    assert entries["conditioning"]["labels"] == [3]
    assert "give one of task=classifier" in refused(*by[:1], f"conditioning.classifier={other}")
    assert "class in 0 … 9" in refused(*by[:2], "conditioning.label=11")


def test_checkpoints_of_runs_are_conditioned(other, tmp_path, capsys):
    """Also where the data are not at hand, with an image of one's own."""
    draws = [f"checkpoint={other}", "sampler=ddim", "sampler.steps=2", "conditioning=inpaint"]
    Image.new("RGB", (8, 8), (200, 30, 90)).save(tmp_path / "photo.png")
    own = [f"conditioning.image={tmp_path / 'photo.png'}", "conditioning.samples=2"]
    result = start(tmp_path / "run", "task=sample", *draws, *own)
    assert result["conditioning"]["images"] == 1
    assert np.load(tmp_path / "run" / "samples.npz")["samples"].shape == (2, 1, 8, 8)
    code, said = ends(capsys, tmp_path / "none", "task=sample", *draws)
    assert code == 2 and "task=sample has no test images here; add conditioning.image" in said
    result = start(tmp_path / "again", *NET, *draws, *FEW)
    assert "bits_per_dim" not in result and "quality" not in result
    assert "conditioning=none measures the model" in result["skipped"]["likelihood"]


def test_a_small_image_of_ones_own_is_enlarged(tmp_path):
    path = tmp_path / "small.png"
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 16).save(path)
    own = ["conditioning=superres", f"conditioning.image={path}", "conditioning.measured=true"]
    entries, samples = sampled(tmp_path, *own, "conditioning.samples=3")
    small = samples.x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1))
    wanted = read_image(str(path), (1, 4, 4), (-1.0, 1.0)).expand(3, -1, -1, -1)
    torch.testing.assert_close(small, wanted, atol=1e-5, rtol=0)  # float32
    assert entries["conditioning"]["images"] == 1 and "psnr_mean" not in entries["conditioning"]
    assert "takes the file image=FILE" in refused(*own[:1], own[2])
    assert "an image of 2 × 2 is needed" in refused(*own, "conditioning.factor=4")


@pytest.mark.parametrize("mask", [None, "left"])
def test_edits_and_inversions_run(mask, tmp_path):
    edit = ["conditioning=sdedit", "conditioning.noise_level=0.7", *FEW]
    parts = parts_of(*edit, *([] if mask is None else [f"conditioning.mask={mask}"]))
    entries, samples = sampled(tmp_path, parts=parts)
    assert entries["nfe"] == 3 and entries["conditioning"]["noise_level"] == 0.7
    guides = parts.data.scale(parts.data.test[:2]).repeat_interleave(2, 0)
    if mask is not None:
        assert torch.equal(samples.x[..., 4:], guides[..., 4:])
    invert = ["conditioning=inversion", "conditioning.images=2", "sampler=ddim", "sampler.steps=8"]
    plain, _ = sampled(tmp_path, *invert)
    exact, _ = sampled(tmp_path, *invert, "conditioning.iterations=12")
    errors = [found["conditioning"]["cycle_error"] for found in (plain, exact)]
    assert errors[1] < min(errors[0], 1e-3)


def test_masks_hide_what_their_names_say(tmp_path):
    shape = (3, 8, 6)
    hidden = {name: ~known_pixels(name, shape, 0.25, 0) for name in NAMES}
    assert hidden["center"].nonzero().aminmax(dim=0)[0].tolist() == [0, 2, 1]
    assert hidden["left"][:, :, :3].all() and not hidden["left"][:, :, 3:].any()
    assert hidden["top"][:, :4].all() and not hidden["top"][:, 4:].any()
    assert (hidden["outpaint"] == ~hidden["center"]).all()
    assert hidden["checkerboard"][0, :2, :3].int().tolist() == [[0, 1, 0], [1, 0, 1]]
    assert hidden["random"].sum() == 3 * 12 and (hidden["random"][0] == hidden["random"][2]).all()
    Image.fromarray((255 * hidden["left"][0].numpy()).astype(np.uint8)).save(tmp_path / "m.png")
    assert (known_pixels(str(tmp_path / "m.png"), shape, 0.5, 0) == ~hidden["left"]).all()


def test_images_are_read_as_the_network_sees_them(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (6, 4), (255, 255, 255)).save(path)
    x = read_image(str(path), (1, 4, 6), (-1.0, 1.0))
    assert x.shape == (1, 1, 4, 6) and x.unique().item() == pytest.approx(1 - 1 / 256)
    assert read_image(str(path), (3, 2, 2), (0.0, 1.0), True).shape == (1, 3, 2, 2)


FREE = ["conditioning=classifier_free", "condition=label"]
PAINT = ["conditioning=inpaint"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [*FREE, "conditioning.label=10"],
            "label must be a class in 0 … 9, or a list of them, got 10",
        ),
        ([*FREE, "conditioning.label=[]"], "class in 0 … 9"),
        ([*FREE, "conditioning.scale=-1"], "scale must be a finite number ≥ 0"),
        ([*FREE, "conditioning.scale=2", "conditioning.strength=1"], "and not both"),
        ([*FREE, "conditioning.interval=[1]"], r"interval must be \[low, high\]"),
        ([*FREE, "conditioning.threshold=soft"], "unknown threshold 'soft'"),
        (FREE[:1], "needs a network with class labels"),
        (["conditioning=classifier"], "conditioning.classifier must be the folder of a run"),
        (["conditioning=autoguidance"], "conditioning.bad must be the folder of a run"),
        ([*PAINT, "conditioning.mask=middle"], "unknown mask 'middle'"),
        ([*PAINT, "conditioning.mask=none.png"], "there is no mask at none.png"),
        (
            [*PAINT, "conditioning.mask=random", "conditioning.share=1"],
            r"share must be in \(0, 1\)",
        ),
        ([*PAINT, "conditioning.image=none.png"], "there is no image at none.png"),
        ([*PAINT, "conditioning.images=400"], "has 359 test images; use fewer"),
        ([*PAINT, "conditioning.images=0"], "images must be an integer ≥ 1"),
        ([*PAINT, "conditioning.std=-1"], "std must be a finite number ≥ 0"),
        ([*PAINT, "conditioning/method=dps_score"], "and std is 0; give std > 0"),
        ([*PAINT, "conditioning.method=null"], "method=NAME chooses how"),
        ([*PAINT, "conditioning/method=split_gibbs"], "and std is 0"),
        (
            [*PAINT, "conditioning/method=replacement", "conditioning.std=0.1"],
            "as exact, got noise",
        ),
        ([*PAINT, "conditioning/method=repaint", "sampler=ode"], "ProbabilityFlowODE has none"),
        ([*PAINT, "conditioning/method=replacement", "sampler=ode"], "takes no constraint"),
        ([*PAINT, "conditioning/method=replacement", "sampler=dpmpp"], "multistep solver's memory"),
        (["conditioning=superres", "conditioning.factor=3"], "factor must divide the height"),
        (["conditioning=jpeg", "conditioning.quality=0"], "quality must be an integer ≥ 1"),
        (["conditioning=colorize"], "needs images with colours"),
        (["conditioning=phase_retrieval", "conditioning/method=ddrm"], "DDRM"),
        (["conditioning=sdedit", "conditioning.noise_level=1e9"], "noise_level must be in"),
        (["conditioning=ddib"], "conditioning.target=RUN"),
        (["conditioning=inversion"], "draws noise"),
        ([*PAINT, "task=noise_estimator"], "is for tasks that generate samples"),
    ],
    ids=lambda case: " ".join(case) if isinstance(case, list) else "",
)
def test_what_cannot_be_done_is_refused_before_any_work(overrides, said):
    found = refused(*overrides)
    assert re.search(said, found), found


def test_points_and_other_images_are_refused(tmp_path):
    points = ["data=mixture", "model=mlp", "data.n=64", "data.n_test=16", "train.batch_size=4"]
    cfg = composed(*points, *PAINT, "evaluate/likelihood=none", "sampler=ddim")
    with pytest.raises(ValueError, match="needs images, and data=mixture are points"):
        build(cfg)
    path = tmp_path / "photo.png"
    Image.new("L", (9, 7)).save(path)
    said = refused(*PAINT, f"conditioning.image={path}")
    assert (
        "is 9 × 7 pixels" in said
        and "an image of 8 × 8 is needed; add conditioning.resize=true" in said
    )
    Image.new("L", (8, 8), 255).save(path)
    assert "hides everything" in refused(*PAINT, f"conditioning.mask={path}")
