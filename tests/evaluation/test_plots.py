"""Pictures are read back and compared by their pixels, and tables by their text."""

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.evaluation import plots
from scoresde.evaluation.images import GROUND
from scoresde.evaluation.plots import (
    save_gif,
    save_grid,
    save_loss_curve,
    save_points,
    save_points_gif,
)
from scoresde.evaluation.report import result_table, results_table


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def random_images(*shape, levels=17):
    return np.random.default_rng(0).integers(0, levels, shape, dtype=np.uint8)


def gaussian_log_prob(x):
    return -x.square().sum(1) / 2 - np.log(2 * np.pi)


# --- Grids of images


def test_grid_holds_every_pixel_at_its_place(tmp_path):
    images = random_images(5, 1, 4, 3)
    path = save_grid(images, tmp_path / "new" / "grid.png", levels=17, columns=2, scale=6)
    assert path == tmp_path / "new" / "grid.png"
    picture = pixels(path)
    assert picture.shape == (6 * (3 * 5 + 1), 6 * (2 * 4 + 1))
    small = picture[3::6, 3::6]  # these are the middles of the enlarged pixels
    np.testing.assert_array_equal(small.repeat(6, 0).repeat(6, 1), picture)
    for n, image in enumerate(images[:, 0]):
        top, left = n // 2 * 5 + 1, n % 2 * 4 + 1
        expected = np.round(image * (255 / 16))
        np.testing.assert_array_equal(small[top : top + 4, left : left + 3], expected)
    # The rest is padding around the images, and the empty cell of the sixth image.
    assert (small[::5] == GROUND).all()
    assert (small[:, ::4] == GROUND).all()
    assert (small[11:, 5:] == GROUND).all()


def test_grid_of_colour_images_with_256_levels_is_exact(tmp_path):
    images = random_images(4, 3, 5, 5, levels=256)
    picture = pixels(save_grid(images, tmp_path / "g.png", padding=0, scale=1))
    assert picture.shape == (10, 10, 3)
    np.testing.assert_array_equal(picture[5:, :5], images[2].transpose(1, 2, 0))


@pytest.mark.parametrize(("count", "side"), [(64, 8), (4, 8), (16, 32), (100, 28)])
def test_grid_is_about_640_pixels_wide(tmp_path, count, side):
    picture = pixels(save_grid(random_images(count, 1, side, side), tmp_path / "g.png", 17))
    assert 500 <= picture.shape[1] <= 800


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 1, 4, 4)), {}, "uint8 array"),
        (random_images(2, 4, 4), {}, "uint8 array"),
        (random_images(2, 2, 4, 4), {}, "channels must be 1 or 3"),
        (random_images(2, 1, 4, 4), {"levels": 3}, "allowed are 0 … 2"),
        (random_images(2, 1, 4, 4), {"columns": 0}, "columns and scale ≥ 1"),
        (random_images(2, 1, 4, 4), {"scale": 0}, "columns and scale ≥ 1"),
    ],
)
def test_grid_refuses_and_writes_nothing(tmp_path, images, options, message):
    with pytest.raises(ValueError, match=message):
        save_grid(images, tmp_path / "g.png", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        save_grid(random_images(2, 1, 4, 4), tmp_path / "g.gif")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_write_leaves_no_file_and_the_old_one(tmp_path, monkeypatch):
    path = save_grid(random_images(4, 1, 4, 4), tmp_path / "g.png")
    before = path.read_bytes()

    def fail(image, file, **options):
        with open(file, "wb") as part:
            part.write(b"half a picture")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    for target in (path, tmp_path / "other.png"):
        with pytest.raises(OSError, match="disk full"):
            save_grid(random_images(9, 1, 4, 4), target)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


# --- Animations


def durations(path):
    with Image.open(path) as image:
        times = []
        for i in range(image.n_frames):
            image.seek(i)
            image.load()
            times.append(image.info["duration"])
    return times


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_has_every_frame_and_holds_the_last(tmp_path, channels):
    frames = random_images(6, 9, channels, 4, 4)
    path = save_gif(frames, tmp_path / "g.gif", levels=17, seconds=1.0)
    assert durations(path) == [200] * 5 + [1500]


def test_gif_shows_the_grids_of_its_frames(tmp_path):
    frames = random_images(3, 9, 1, 4, 4)
    path = save_gif(frames, tmp_path / "g.gif", levels=17)
    with Image.open(path) as image:
        for i, frame in enumerate(frames):
            image.seek(i)
            shown = np.asarray(image.convert("L")).astype(int)
            scale = shown.shape[0] // 16
            grid = pixels(save_grid(frame, tmp_path / "one.png", levels=17, scale=scale))
            # Grey values fit in a palette of 256; converting from it may round by one.
            assert np.abs(shown - grid).max() <= 1


def test_gif_of_many_frames_is_thinned_to_25_per_second(tmp_path):
    frames = random_images(500, 1, 1, 4, 4)
    path = save_gif(frames, tmp_path / "g.gif", levels=17, seconds=2.0)
    assert durations(path) == [40] * 49 + [1500]


def test_points_gif_follows_the_points_from_noise_to_data(tmp_path):
    generator = torch.Generator().manual_seed(0)
    ends, noise = torch.randn(2, 300, 2, generator=generator).unbind()
    frames = torch.stack([ends + s * noise for s in (50.0, 10.0, 1.0, 0.0)])
    path = save_points_gif(frames, tmp_path / "p.gif", seconds=0.6)
    assert durations(path) == [200] * 3 + [1500]
    with Image.open(path) as image:
        for i in range(4):
            image.seek(i)
            blue = np.asarray(image.convert("RGB")).astype(int)
            dots = (blue[..., 2] - blue[..., 0]) > 40
            rows, columns = np.nonzero(dots)
            # In every frame the points fill more than half of the window, whatever their scale.
            assert np.ptp(rows) > 0.6 * image.height
            assert np.ptp(columns) > 0.6 * image.width


@pytest.mark.parametrize(
    ("write", "frames", "message"),
    [
        (save_gif, random_images(3, 1, 4, 4), "frames must have shape"),
        (save_points_gif, np.zeros((3, 2)), "frames must have shape"),
        (save_points_gif, np.full((2, 3, 2), np.nan), "got 6 points that are not"),
    ],
)
def test_gifs_refuse_and_write_nothing(tmp_path, write, frames, message):
    with pytest.raises(ValueError, match=message):
        write(frames, tmp_path / "g.gif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_gifs_refuse_a_time_that_is_none(tmp_path, seconds):
    with pytest.raises(ValueError, match="seconds must be positive"):
        save_points_gif(np.zeros((3, 4, 2)), tmp_path / "g.gif", seconds=seconds)
    assert list(tmp_path.iterdir()) == []


# --- Curves


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [2.0],
        [float("nan")],
        [1.0, float("inf"), 3.0],
        [0.0, 0.0, 0.0],
        [-1.0, 2.0, -3.0, 100.0],
        np.geomspace(1000, 0.1, 200),
    ],
    ids=["none", "one", "NaN", "infinity", "zero", "negative", "many"],
)
def test_loss_curve_of_any_losses(tmp_path, losses):
    path = save_loss_curve(np.arange(len(losses)), losses, tmp_path / "loss.png")
    assert pixels(path).shape[:2] == (576, 1024)
    assert list(tmp_path.iterdir()) == [path]


def test_loss_curve_draws_the_median_and_not_the_spikes(tmp_path):
    losses = np.full(300, 5.0)
    losses[::10] = 9.0
    picture = pixels(save_loss_curve(np.arange(300), losses, tmp_path / "loss.png")).astype(int)
    blue = (picture[..., 2] - picture[..., 0]) > 60
    # One flat line of a few pixels crosses the picture; the legend's line is short.
    widths = blue.sum(axis=1)
    assert 2 <= (widths > 800).sum() <= 8
    assert not ((widths > 100) & (widths < 800)).any()


def test_loss_curve_refuses_other_lengths(tmp_path):
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2,\)"):
        save_loss_curve([1, 2, 3], [1.0, 2.0], tmp_path / "loss.png")


# --- Points in the plane


@pytest.fixture
def cloud():
    return torch.randn(400, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_points_draws_a_panel_for_each_thing_given(tmp_path, cloud):
    everything = {
        "reference": cloud + 0.1,
        "log_prob": gaussian_log_prob,
        "trajectories": torch.stack([2 * cloud, 1.5 * cloud, cloud]),
    }
    heights = set()
    for panels in range(4):
        given = dict(list(everything.items())[:panels])
        picture = pixels(save_points(cloud, tmp_path / "p.png", **given))
        assert picture.shape[1] == (panels + 1) * 560
        heights.add(picture.shape[0])
    assert heights == {592}


def test_density_is_drawn_the_right_way_up(tmp_path):
    # All mass lies in the lower right corner of the window [-1.12, 1.12]².
    def log_prob(x):
        assert x.dtype == torch.float32
        inside = (x[:, 0] > 0.2) & (x[:, 1] < -0.2)
        return torch.where(inside, 0.0, -torch.inf)

    corners = np.array([[-1.0, -1.0], [1.0, 1.0]] * 200)
    picture = pixels(save_points(corners, tmp_path / "p.png", log_prob=log_prob)).astype(int)
    panel = picture[60:540, 60:540]
    dark = (panel[..., 2] < 130) & (panel[..., 0] < 60)
    half = 240
    share = [
        dark[r, c].mean()
        for r in (slice(half), slice(half, None))
        for c in (slice(half), slice(half, None))
    ]
    assert share[3] > 0.5
    assert max(share[:3]) < 0.05


def test_outliers_do_not_shrink_the_picture_and_are_counted(tmp_path, cloud, monkeypatch):
    titles = []
    monkeypatch.setattr(
        plots.Axes, "set_title", lambda axes, title, **options: titles.append(title)
    )
    far = torch.cat([cloud, torch.tensor([[1e3, 0.0]])])
    save_points(far, tmp_path / "p.png", reference=cloud)
    assert titles == ["Data", "Samples (1 of 401 outside)"]


@pytest.mark.parametrize("count", [1, 2])
def test_points_draws_very_few_samples(tmp_path, count):
    save_points(np.zeros((count, 2)), tmp_path / "p.png")
    save_points_gif(np.zeros((1, count, 2)), tmp_path / "p.gif")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("samples", "given", "message"),
    [
        (np.zeros((5, 3)), {}, r"samples must have shape \(N, 2\), none empty, got \(5, 3\)"),
        (np.zeros((0, 2)), {}, r"got \(0, 2\)"),
        ([[0.0, np.nan], [1.0, 2.0]], {}, "samples must be finite, got 1 points"),
        (np.zeros((5, 2)), {"reference": [[np.inf, 0.0]]}, "reference must be finite"),
        (np.zeros((5, 2)), {"trajectories": np.zeros((5, 2))}, r"shape \(F, N, 2\)"),
        (np.zeros((5, 2)), {"log_prob": lambda x: x}, "log_prob must return shape"),
        (np.zeros((5, 2)), {"log_prob": lambda x: x[:, 0].log()}, "without NaN"),
    ],
)
def test_points_refuses_and_writes_nothing(tmp_path, samples, given, message):
    with pytest.raises(ValueError, match=message):
        save_points(samples, tmp_path / "p.png", **given)
    assert list(tmp_path.iterdir()) == []


# --- Tables

IMAGES = {
    "sde": "VP",
    "sampler": "reverse diffusion | Langevin",
    "bits_per_dim": 2.31204,
    "bits_per_dim_error": 0.0213,
    "quality": {
        "accuracy": 0.985,
        "confident": 0.912,
        "confident_real": 0.951,
        "confident_ratio": 0.959,
        "coverage": [0.071, 0.929],
        "coverage_min": 0.071,
        "frechet": 1.94,
        "frechet_floor": 0.61,
        "n": 898,
    },
    "nfe": 1000,
    "seconds": {"train": 12.34, "sample": 250.0},
    "run_dir": "outputs/a",
}
POINTS = {
    "data": "moons",
    "sde": "VE",
    "bits_per_dim": None,
    "log_likelihood": -1.5214,
    "log_likelihood_error": 0.0031,
    "entropy": 1.5,
    "seconds": {"total": 3.21},
}


def test_result_table_of_images():
    assert result_table(IMAGES).splitlines() == [
        "SDE               VP",
        "sampler           reverse diffusion | Langevin",
        "bits/dim          2.31 ± 0.02",
        "confident digits  0.91 (real 0.95, ratio 0.96)",
        "Fréchet           1.94 (floor 0.61, 898 images)",
        "smallest class    7.1 %",
        "NFE               1000",
        "time              train 12.3 s, sample 250 s",
        "saved in          outputs/a",
    ]


def test_a_bound_is_shown_as_one():
    bound = result_table(IMAGES | {"bound": True})
    assert "bits/dim          ≤ 2.31 ± 0.02" in bound.splitlines()


def test_result_table_of_points():
    assert result_table(POINTS).splitlines() == [
        "data            moons",
        "SDE             VE",
        "log-likelihood  -1.521 ± 0.003 nats (best possible -1.50)",
        "time            total 3.2 s",
    ]
    assert result_table({}) == ""
    assert result_table({"bits_per_dim": 2.0, "bits_per_dim_error": float("nan")}) == (
        "bits/dim  2.00"
    )


def test_results_table_has_a_row_per_run_and_dashes_for_what_is_missing():
    header, rule, first, second = results_table([IMAGES, POINTS]).splitlines()
    assert header.count("|") == rule.count("|") == second.count("|")
    assert first == (
        r"| – | VP | reverse diffusion \| Langevin | 2.31 ± 0.02 | – | 7.1 % | 0.96 "
        "| 1.94 / 0.61 | 1000 | 262 s |"
    )
    assert second == (
        "| moons | VE | – | – | -1.521 ± 0.003 nats (best possible -1.50) | – | – | – | – | 3.2 s |"
    )
    # A column that no run fills is omitted.
    assert "log-likelihood" not in results_table([IMAGES]).splitlines()[0]
