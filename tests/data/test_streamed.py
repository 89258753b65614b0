"""Images that are read on demand, compared with the same images in memory."""

import gc
import io
import os
import random
import tarfile
import threading
import time
import weakref
import zipfile

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from scoresde.data import Folder, Streamed
from scoresde.data.ahead import DEPTH, Ahead, _Job
from scoresde.data.picture import decode
from scoresde.data.split import part_by_name
from scoresde.experiments.model import make
from tests.data.test_data import noise
from tests.data.test_formats import encoded, npz
from tests.data.test_readers import npy, png, spoil, write_files
from tests.data.test_tables import parquet
from tests.experiments.runs import CONF, ends, images, start

SETTINGS = {"size": 8, "crop": 9, "labels": "folders", "condition": "label"}
PLACES = ("set", "stored.zip", "deflated.zip", "set.tar")


def photographs(count=40):
    """Write files of several formats, sizes and colours into two class folders."""
    shapes = [(10, 13, 3), (12, 11, 3), (9, 20), (14, 9, 4)]
    kinds = [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")]
    files = {}
    for i in range(count):
        array, (kind, suffix) = noise(i, *shapes[i % 4]), kinds[i % 3]
        array = array[..., :3] if kind == "JPEG" and array.ndim == 3 else array
        files[f"{'ab'[i % 7 < 3]}/{i:03d}.{suffix}"] = encoded(array, kind)
    return files


def write_tar(path, files, format=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w:", format=format) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Pack the same files as a folder, two zips and a tar."""
    root, files = tmp_path_factory.mktemp("places"), photographs()
    write_files(root / "set", files)
    for name, kind in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(root / f"{name}.zip", "w", kind) as archive:
            for file, content in sorted(files.items(), reverse=True):
                archive.writestr(file, content)
    write_tar(root / "set.tar", {f"./{name}": content for name, content in files.items()})
    return root


def same(one, two):
    assert torch.equal(one.x, two.x)
    assert (one.condition is None) is (two.condition is None)
    assert one.condition is None or torch.equal(one.condition, two.condition)


# The same numbers


@pytest.mark.parametrize("place", PLACES)
def test_batches_are_those_of_memory_for_any_number_of_workers(place, places):
    memory = Folder(places / "set", channels=3, **SETTINGS)
    digests = set()
    for workers in (0, 1, 3):
        streamed = Streamed(places / place, channels=3, workers=workers, **SETTINGS)
        # The steps cross epochs of 5 batches, start anew elsewhere, run backwards, and repeat.
        for step in (0, 1, 2, 3, 4, 5, 6, 12, 13, 3, 3, 4):
            same(streamed.batch(step, 7, seed=2), memory.batch(step, 7, seed=2))
        for seed, size in ((3, 7), (3, 5), (2, 36)):
            same(streamed.batch(1, size, seed=seed), memory.batch(1, size, seed=seed))
        assert (streamed.shape, streamed.range, streamed.levels, streamed.cell) == (
            (memory.shape, memory.range, memory.levels, memory.cell)
        )
        assert streamed.classes == 2 and streamed.quality is None
        digests.add(streamed.digest)
        streamed.close()
    # The digest does not depend on the place or the packing of the images.
    digests.add(Streamed(places / "set", channels=3, **SETTINGS).digest)
    assert len(digests) == 1 and len(digests.pop()) == 64


@pytest.mark.parametrize("settings", [{"dequantize": False}, {"flip": False}, {"seed": 4}])
def test_other_settings_mean_the_same(settings, places):
    settings = {"size": 6, "channels": 1, "range": (0.0, 1.0), "test_fraction": 0.3, **settings}
    memory, streamed = (kind(places / "set", **settings) for kind in (Folder, Streamed))
    for step in (0, 4):
        same(streamed.batch(step, 8, seed=0), memory.batch(step, 8, seed=0))
    assert torch.equal(streamed.test[:], memory.test) and streamed.batch(0, 8, 0).condition is None


def test_parts_are_read_as_tensors_are_indexed(places):
    memory, streamed = (kind(places / "set", channels=3, **SETTINGS) for kind in (Folder, Streamed))
    for part in ("train", "test"):
        images, wanted = getattr(streamed, part), getattr(memory, part)
        assert len(images) == len(wanted)
        for index in (slice(2), slice(None, None, 3), slice(-2, None), slice(0), slice(1000)):
            assert torch.equal(images[index], wanted[index])
        index = torch.tensor([3, 0, 0, 2])
        assert torch.equal(images[index], wanted[index]) and images[index].dtype == torch.uint8
        assert torch.equal(getattr(streamed, f"{part}_labels"), getattr(memory, f"{part}_labels"))
        assert torch.equal(
            getattr(streamed, f"{part}_condition"), getattr(memory, f"{part}_labels")
        )


def test_parts_of_folders_and_linked_folders_are_the_same(tmp_path):
    files = {f"{part}/{i}.png": png(noise(i, 4, 4)) for i in range(9) for part in ("train", "val")}
    write_files(tmp_path / "set", files)
    write_files(tmp_path / "more", {f"{i}.png": png(noise(50 + i, 4, 4)) for i in range(4)})
    os.symlink(tmp_path / "more", tmp_path / "set" / "train" / "more")
    memory, streamed = (kind(tmp_path / "set") for kind in (Folder, Streamed))
    assert len(streamed.train) == 13 and len(streamed.test) == 9
    same(streamed.batch(1, 6, seed=0), memory.batch(1, 6, seed=0))
    assert streamed.report.startswith(f"found 22 images from {tmp_path / 'set'}: 13 for training")


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 3), (6, 3, 5, 4)])
def test_arrays_are_read_by_rows(shape, tmp_path):
    files = {"a.npy": npy(noise(0, *shape)[:1] if len(shape) == 3 else noise(0, *shape))}
    files["b.npz"] = npz(noise(1, *shape)[:1] if len(shape) == 3 else noise(1, *shape))
    files["c.png"] = png(noise(2, 5, 4) if len(shape) == 3 else noise(2, 5, 4, 3))
    if len(shape) == 3:  # one image each
        files |= {f"{name}.npy": npy(noise(3, 5, 4)) for name in "de"}
        files["a.npy"], files["b.npz"] = npy(noise(0, 5, 4)), npz(noise(1, 5, 4))
    write_files(tmp_path / "set", files)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    write_tar(tmp_path / "set.tar", files)
    memory = Folder(tmp_path / "set")
    for place in ("set", "set.zip", "set.tar"):
        streamed = Streamed(tmp_path / place)
        same(streamed.batch(0, 4, seed=0), memory.batch(0, 4, seed=0))
        assert torch.equal(streamed.test[:], memory.test)


def test_labels_of_an_npz_and_of_dataset_json(tmp_path):
    labels = np.arange(8) % 3
    write_files(tmp_path, {"a.npz": npz(noise(0, 8, 4, 4, 3), labels)})
    memory, streamed = (
        kind(tmp_path / "a.npz", labels="arr_1", condition="label") for kind in (Folder, Streamed)
    )
    same(streamed.batch(2, 5, seed=1), memory.batch(2, 5, seed=1))
    listed = b'{"labels": [["a.png", 5], ["b.png", 0], ["c.png", 2]]}'
    files = {f"{name}.png": png(noise(ord(name), 4, 4)) for name in "abc"}
    write_tar(tmp_path / "set.tar", {**files, "dataset.json": listed})
    streamed = Streamed(tmp_path / "set.tar", labels="dataset.json")
    by_content = {
        tuple(x.flatten().tolist()): int(label)
        for part in ("train", "test")
        for x, label in zip(
            getattr(streamed, part)[:], getattr(streamed, f"{part}_labels"), strict=True
        )
    }
    assert by_content == {
        tuple(noise(ord(name), 4, 4).flatten().tolist()): label
        for name, label in {"a": 5, "b": 0, "c": 2}.items()
    }
    assert streamed.classes == 6


# WebDataset


def samples(start, count, **others):
    """Samples of a shard, each an image of one level with other files of the same name."""
    files = {}
    for i in range(start, start + count):
        files[f"{i - start:06d}.png"] = png(np.full((2, 2), i, np.uint8))
        for suffix, content in others.items():
            files[f"{i - start:06d}.{suffix}"] = content(i).encode()
    return files


def labels_by_level(streamed):
    return {
        int(x[0, 0, 0]): int(label)
        for part in ("train", "test")
        for x, label in zip(
            getattr(streamed, part)[:], getattr(streamed, f"{part}_labels"), strict=True
        )
    }


@pytest.mark.parametrize(
    ("suffix", "content", "name", "expected"),
    [
        ("cls", lambda i: f"{i % 3}\n", "cls", lambda i: i % 3),
        ("cls", lambda i: ["cat", "dog", "eel"][i % 3], "cls", lambda i: i % 3),
        ("json", lambda i: f'{{"label": {i % 4}, "text": "x"}}', "label", lambda i: i % 4),
        ("json", lambda i: f'{{"size": [2, 2], "kind": {i % 2}}}', "kind", lambda i: i % 2),
    ],
)
def test_labels_stand_next_to_images_in_shards(suffix, content, name, expected, tmp_path):
    for shard in range(3):
        files = samples(10 * shard, 10, **{suffix: content})
        write_tar(tmp_path / f"{shard:06d}.tar", files)
    streamed = Streamed(tmp_path, labels=name, condition="label")
    assert labels_by_level(streamed) == {i: expected(i) for i in range(30)}
    batch = streamed.batch(0, 27, seed=0)
    drawn = streamed.quantize(batch.x)[:, 0, 0, 0]
    assert batch.condition.tolist() == [expected(int(i)) for i in drawn]
    assert f"{suffix} (not read)" not in streamed.report
    plain = Streamed(tmp_path)
    assert plain.train_labels is None and f"(30 skipped: 30 {suffix} (not read))" in plain.report
    assert f"there are data.labels={name}" in plain.report
    # The same labels are read from unpacked shards.
    for shard in range(3):
        write_files(tmp_path / "all" / f"{shard:06d}", samples(10 * shard, 10, **{suffix: content}))
    memory = Folder(tmp_path / "all", labels=name)
    assert labels_by_level(memory) == labels_by_level(streamed)


def test_the_key_of_a_sample_ends_at_the_first_dot(tmp_path):
    files = {f"a/{i}.input.png": png(np.full((2, 2), i, np.uint8)) for i in range(4)}
    files |= {f"a/{i}.cls": str(3 - i).encode() for i in range(4)}
    write_tar(tmp_path / "set.tar", files)
    assert labels_by_level(Streamed(tmp_path / "set.tar", labels="cls")) == {
        i: 3 - i for i in range(4)
    }


@pytest.mark.parametrize(
    ("name", "content", "labels", "message"),
    [
        ("1.cls", b"", "cls", r"1.cls is no label, expected an integer .*\(it is empty\)"),
        ("1.cls", b"\xff\xfe", "cls", r"1.cls is no label, expected"),
        ("1.cls", b"-4", "cls", "the labels 'cls' under .* must be integers ≥ 0, got -4"),
        ("1.json", b"[1]", "label", r"1.json is no label, .*no table of names and values"),
        ("1.json", b'{"label": ', "label", r"1.json is no label"),
        ("1.json", b'{"label": true}', "label", r"1.png has no labels 'label'"),
        ("1.txt", b"1", "cls", r"1.png has no labels 'cls'; allowed are null"),
    ],
)
def test_unusable_labels_next_to_images_are_named(name, content, labels, message, tmp_path):
    files = {f"{i}.png": png(noise(i, 2, 2)) for i in range(3)}
    files |= {f"{i}.cls": b"1" for i in range(3)} | {f"{i}.json": b'{"label": 1}' for i in range(3)}
    for suffix in (".cls", ".json"):
        del files[f"1{suffix}"]
    write_tar(tmp_path / "set.tar", files | {name: content})
    with pytest.raises(ValueError, match=message) as error:
        Streamed(tmp_path / "set.tar", labels=labels)
    assert "\n" not in str(error.value)


def test_shards_are_parts_by_their_names_and_no_classes(tmp_path):
    for part, first in (("train", 0), ("val", 50)):
        for shard in range(2):
            files = samples(first + 10 * shard, 10)
            folders = {f"{'ab'[i % 2]}/{name}": c for i, (name, c) in enumerate(files.items())}
            write_tar(tmp_path / f"{part}-{shard:05d}-of-00002.tar", folders)
    for labels in ("folders", "numbered_folders"):
        streamed = Streamed(tmp_path, labels=labels)
        assert sorted(streamed.train[:][:, 0, 0, 0].tolist()) == list(range(20))
        assert sorted(streamed.test[:][:, 0, 0, 0].tolist()) == list(range(50, 70))
        assert labels_by_level(streamed) == {i: i % 2 for i in (*range(20), *range(50, 70))}
    # A tar next to images is not read, since the images may have been unpacked from it.
    write_files(tmp_path, {"x.png": png(noise(0, 2, 2)), "y.png": png(noise(1, 2, 2))})
    both = Streamed(tmp_path)
    assert len(both.train) + len(both.test) == 2 and "4 tar (not read)" in both.report
    assert part_by_name(["train.tar/a", "test.tar/b"], [False] * 2).named


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_every_form_are_read_with_long_and_foreign_names(format, tmp_path):
    names = [f"{'long' * 20}/{'er' * 30}/{i}.png" for i in range(3)]
    names += ["größe/ß 1.png"] * (format != tarfile.USTAR_FORMAT) + ["a b'c.png"]
    files = {name: png(np.full((2, 2), i, np.uint8)) for i, name in enumerate(names)}
    write_tar(tmp_path / "set.tar", files, format)
    streamed = Streamed(tmp_path / "set.tar")
    levels = torch.cat([streamed.train[:], streamed.test[:]])[:, 0, 0, 0]
    assert sorted(levels.tolist()) == list(range(len(names)))
    index = streamed.reader.index
    assert [index.image(i)[1] for i in range(len(names))] == [
        f"{tmp_path}/set.tar/{name}" for name in sorted(names)
    ]


# Files that are not data


def test_nothing_is_read_from_outside_a_tar(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(noise(9, 4, 4)))
    with tarfile.open(tmp_path / "set.tar", "w:") as archive:
        for i in range(3):
            archive.add(tmp_path / "secret.png", f"{i}.png")
        for name, kind, target in (
            ("link.png", tarfile.SYMTYPE, str(tmp_path / "secret.png")),
            ("hard.png", tarfile.LNKTYPE, "0.png"),
            ("dir", tarfile.SYMTYPE, str(tmp_path)),
            ("fifo.png", tarfile.FIFOTYPE, ""),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        for name in (str(tmp_path / "secret.png"), "../secret.png", "a/../../secret.png"):
            content = png(noise(5, 4, 4))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        archive.add(tmp_path / "secret.png", ".hidden/x.png")
        archive.add(tmp_path / "secret.png", "run/x.png")
        for name in ("run/config.yaml", "run/result.json"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    before = sorted(os.listdir(tmp_path))
    streamed = Streamed(tmp_path / "set.tar")
    assert len(streamed.train) + len(streamed.test) == 3
    for skipped in (
        "3 links in the tar (not followed)",
        "3 with names that lead out of the tar (not read)",
        "1 special files",
        "1 hidden",
        "1 folders of runs",
    ):
        assert skipped in streamed.report
    assert sorted(os.listdir(tmp_path)) == before  # nothing is unpacked


def compressed(path, mode):
    with tarfile.open(path, mode) as archive:
        member = tarfile.TarInfo("a.png")
        archive.addfile(member)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: write_tar(p, {}), r"is empty \(0 images under .*set.tar"),
        (lambda p: write_tar(p, {"a.txt": b"1"}), r"is empty .*1 skipped: 1 txt \(not read\)"),
        (lambda p: p.write_bytes(b""), r"set.tar is corrupt or truncated: .*\(it is empty\)"),
        (lambda p: p.write_bytes(b"x" * 2000), "set.tar is corrupt or truncated: expected a compl"),
        (lambda p: compressed(p, "w:gz"), "set.tar is a compressed tar, in which no image can be"),
        (lambda p: compressed(p, "w:xz"), "decompress it to a plain tar"),
        (lambda p: write_tar(p, {"a.png": png(noise(0, 4, 4))}), "has 1 image under"),
        (lambda p: write_tar(p, {"a.png": b"", "b.png": b""}), "a.png is empty"),
        (
            lambda p: (write_tar(p, photographs(9)), spoil(p, lambda c: c[: len(c) // 2])),
            "set.tar is corrupt or truncated",
        ),
    ],
)
def test_unusable_tars_are_named(write, message, tmp_path):
    write(tmp_path / "set.tar")
    with pytest.raises(ValueError, match=message) as error:
        Streamed(tmp_path / "set.tar", size=4)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_of_two_files_of_one_name_in_a_tar_the_later_is_read(tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w:") as archive:
        for name, level in (("a.png", 1), ("b.png", 2), ("a.png", 3)):
            content = png(np.full((2, 2), level, np.uint8))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    streamed = Streamed(tmp_path / "set.tar")
    levels = [int(x[0, 0, 0]) for part in (streamed.train, streamed.test) for x in part[:]]
    assert sorted(levels) == [2, 3]


def test_tables_and_packed_arrays_say_what_reads_them(tmp_path):
    packed = npz(noise(0, 6, 4, 4, 3), save=np.savez_compressed)
    write_files(tmp_path / "npz", {"a.npz": packed, "b.npz": packed})
    with pytest.raises(ValueError, match=r"a.npz holds an array that is compressed.*data=folder"):
        Streamed(tmp_path / "npz")
    write_files(tmp_path / "f", {"a.npy": npy(np.asfortranarray(noise(0, 6, 4, 4, 3)))})
    with pytest.raises(ValueError, match=r"a.npy holds an array that is in Fortran order.*C order"):
        Streamed(tmp_path / "f")
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        for name in "ab":
            archive.writestr(f"{name}.png", png(noise(0, 4, 4)))
    assert len(Folder(tmp_path / "lzma.zip").train) == 1
    with pytest.raises(ValueError, match=r"a.png is encrypted, or packed otherwise.*data=folder"):
        Streamed(tmp_path / "lzma.zip")
    write_files(tmp_path, {"set.parquet": parquet([png(noise(i, 4, 4)) for i in range(3)])})
    with pytest.raises(ValueError, match=r"set.parquet is a Parquet file.*use data=folder"):
        Streamed(tmp_path / "set.parquet")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": -1}, "workers must be an integer ≥ 0, got -1; 0 reads without threads"),
        ({"workers": True}, "workers must be an integer ≥ 0, got True"),
        ({"crop": 0}, "crop must be an integer ≥ 1 or null, got 0"),
        ({"size": 2.5}, "size must be an integer ≥ 1 or null, got 2.5"),
        ({"channels": 2}, "channels must be 1, 3 or null, got 2"),
        ({"labels": "nothing"}, r"has no labels 'nothing'; allowed are null, folders"),
        ({"condition": "label"}, "have no labels; set data.labels=folders"),
        ({"condition": "labels"}, r"got 'labels'; did you mean label\?"),
        ({"range": (1, 0)}, "is impossible"),
        ({"test_fraction": 1.0}, r"test_fraction must be in \(0, 1\), got 1.0"),
    ],
)
def test_impossible_settings_are_named(settings, message, places):
    with pytest.raises(ValueError, match=message):
        Streamed(places / "set", **{"size": 4, "channels": 3, **settings})


def test_absent_roots_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data.root=.*absent.tar not found"):
        Streamed(tmp_path / "absent.tar")


# Faults while training


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("place", ["set", "set.zip", "set.tar"])
def test_a_truncated_image_ends_the_training_at_its_batch_by_name(place, workers, tmp_path):
    files = {f"{i:02d}.png": png(noise(i, 6, 6)) for i in range(20)}
    good = Streamed(_packed(tmp_path / "good", place, files), workers=0)
    number = int(good.train.numbers[good.indices(3, 4, seed=0)][2])
    bad = f"{number:02d}.png"
    files[bad] = files[bad][:-40]
    broken = Streamed(_packed(tmp_path / "bad", place, files), workers=workers)
    for step in range(3):
        same(broken.batch(step, 4, seed=0), good.batch(step, 4, seed=0))
    for _ in range(2):  # the same error occurs again
        with pytest.raises(ValueError, match=rf"{bad} is corrupt, truncated or not what") as error:
            broken.batch(3, 4, seed=0)
        assert "\n" not in str(error.value) and str(tmp_path / "bad" / place) in str(error.value)
    # The other images can still be read.
    same(broken.batch(1, 4, seed=0), good.batch(1, 4, seed=0))
    broken.close()


def _packed(root, place, files):
    root.mkdir()
    if place == "set":
        write_files(root / place, files)
    elif place == "set.tar":
        write_tar(root / place, files)
    else:
        with zipfile.ZipFile(root / place, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    return root / place


def test_images_that_are_gone_or_changed_while_training_are_named(tmp_path):
    files = {f"{i}.png": png(noise(i, 6, 6)) for i in range(10)}
    write_files(tmp_path / "set", files)
    streamed = Streamed(tmp_path / "set", workers=1)
    for name in files:
        (tmp_path / "set" / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"\d.png was there and is gone; put it back"):
        streamed.batch(0, 4, seed=0)
    for place in ("set.zip", "set.tar"):
        path = _packed(tmp_path / place[4:], place, files)
        streamed = Streamed(path, workers=1)
        spoil(path, lambda content: content[:600])
        with pytest.raises(ValueError, match=r"\d.png is (truncated: \d+ of its|corrupt, trunc)"):
            streamed.batch(0, 9, seed=0)
    path = _packed(tmp_path / "third", "set.zip", files)
    streamed = Streamed(path, workers=0)
    # Two bytes of pixels are changed, while all sizes stay.
    spoil(
        path, lambda c: c.replace(files["3.png"], files["3.png"][:60] + b"??" + files["3.png"][62:])
    )
    with pytest.raises(ValueError, match=r"3.png is corrupt, .*its checksum does not match"):
        torch.cat([streamed.train[:], streamed.test[:]])


def test_images_of_another_form_than_the_first_are_named_at_their_batch(tmp_path):
    files = {f"{i}.png": png(noise(i, 6, 6)) for i in range(10)}
    write_files(tmp_path, files | {"8.png": png(noise(8, 6, 7))})
    with pytest.raises(ValueError, match=r"8.png is 7x6, the first image \(.*0.png\) is 6x6"):
        Streamed(tmp_path).train[:]
    write_files(tmp_path, files | {"8.png": png(noise(8, 6, 6, 3))})
    with pytest.raises(ValueError, match=r"8.png has 3 channels, the first image .* has 1; set da"):
        Streamed(tmp_path, test_fraction=0.01).train[:]


# Crop


@pytest.mark.parametrize("kind", [Folder, Streamed])
def test_the_central_square_is_cropped_and_resized(kind, tmp_path):
    """The images have CelebA's 178 x 218 pixels; the central 140 begin at column 19 and row 39."""
    pictures = [noise(i, 218, 178, 3) for i in range(3)]
    write_files(tmp_path, {f"{i}.png": png(array) for i, array in enumerate(pictures)})
    cropped = kind(tmp_path, crop=140)
    resized = kind(tmp_path, crop=140, size=64)
    assert cropped.shape == (3, 140, 140) and resized.shape == (3, 64, 64)
    wanted = {"cropped": [], "resized": []}
    for array in pictures:
        square = Image.fromarray(array).crop((19, 39, 159, 179))
        small = square.resize((64, 64), Image.Resampling.LANCZOS)
        for name, image in (("cropped", square), ("resized", small)):
            wanted[name].append(np.asarray(image).transpose(2, 0, 1).ravel().tolist())
    for name, data in (("cropped", cropped), ("resized", resized)):
        found = torch.cat([data.train[:], data.test[:]]).flatten(1).tolist()
        assert sorted(found) == sorted(wanted[name])
    write_files(tmp_path, {"1.png": png(noise(0, 139, 300, 3))})
    with pytest.raises(ValueError, match=r"1.png is 300x139, too small for data.crop=140"):
        data = kind(tmp_path, crop=140, size=64)
        torch.cat([data.train[:], data.test[:]])


# Memory and threads


class Alive:
    """The number of counted objects that exist, and its maximum."""

    def __init__(self):
        self.now = self.most = 0
        self.lock = threading.RLock()

    def count(self, thing):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        weakref.finalize(thing, self.release)

    def release(self):
        with self.lock:
            self.now -= 1


def test_few_images_are_held_at_once(places, monkeypatch):
    """Memory holds one decoded image per thread, and the batches that are read ahead."""
    streamed = Streamed(places / "set", channels=3, workers=3, **SETTINGS)
    images, batches = Alive(), Alive()

    def decoded(content, source):
        image = decode(content, source)
        images.count(image)
        return image

    def begin(self, *arguments):
        initialize(self, *arguments)
        batches.count(self)

    initialize = _Job.__init__
    monkeypatch.setattr("scoresde.data.index.decode", decoded)
    monkeypatch.setattr(_Job, "__init__", begin)
    for step in range(12):
        streamed.batch(step, 4, seed=0)
    streamed.close()
    # A thread keeps its image until it has the next one, and its last batch until it has another.
    assert 1 <= images.most <= 2 * 3
    assert DEPTH + 1 <= batches.most <= DEPTH + 2 + 3


def test_an_index_is_small_whatever_the_names(tmp_path):
    """An index takes about fifty bytes and the name per image, and nothing per row of an array."""
    write_tar(tmp_path / "set.tar", {f"{i:06d}.png": png(noise(0, 2, 2)) for i in range(500)})
    index = Streamed(tmp_path / "set.tar").reader.index
    size = sum(
        len(memoryview(value).cast("B"))
        for value in (index._names, index._ends, index._first, *index._columns)
    )
    assert size <= 500 * (10 + 53) + 16
    write_files(tmp_path, {"a.npy": npy(noise(0, 500, 2, 2, 3))})
    assert len(Streamed(tmp_path / "a.npy").reader.index._columns[1]) == 1


def test_more_than_fits_is_refused_before_it_is_read(places, monkeypatch):
    monkeypatch.setattr("scoresde.data.streamed.AT_ONCE", 3 * 8 * 8 * 10)
    streamed = Streamed(places / "set", channels=3, **SETTINGS)
    assert streamed.at_once == 10 and len(streamed.train[:10]) == 10
    monkeypatch.setattr("scoresde.data.streamed.Reader.read", None)
    with pytest.raises(
        ValueError, match="11 samples of 'set' are asked for at once, and at most 1"
    ):
        _ = streamed.train[:11]
    with pytest.raises(ValueError, match=r"at most 10 of their size .*; set evaluate\.x"):
        streamed.check_request(11, "set evaluate.x")
    Folder(places / "set", channels=3, **SETTINGS).check_request(10**9, "")


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def gone(before):
    """Whether only the threads from before are left, after at most two seconds."""
    for _ in range(200):
        if set(readers()) <= set(before):
            return True
        time.sleep(0.01)
    return False


def test_threads_start_with_the_first_batch_and_end_with_the_data(places):
    before = readers()
    streamed = Streamed(places / "set", channels=3, workers=2, **SETTINGS)
    assert set(readers()) == set(before)
    first = streamed.batch(0, 4, seed=0)
    mine = set(readers()) - set(before)
    assert len(mine) == 2 and all(thread.daemon for thread in mine)
    streamed.close()
    streamed.close()
    assert gone(before)
    same(streamed.batch(0, 4, seed=0), first)  # a closed one reads again
    assert len(set(readers()) - set(before)) == 2
    del streamed
    gc.collect()
    assert gone(before)


def test_a_forked_process_reads_with_threads_of_its_own(places):
    streamed = Streamed(places / "set", channels=3, workers=2, **SETTINGS)
    wanted = [streamed.batch(step, 4, seed=0).x for step in range(3)]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # no assertion here, which would run the tests twice
        found = [torch.equal(streamed.batch(step, 4, seed=0).x, wanted[step]) for step in range(3)]
        os.write(writing, bytes(found))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        assert stream.read() == bytes([1, 1, 1])
    os.waitpid(child, 0)
    same(
        streamed.batch(3, 4, seed=0), Folder(places / "set", channels=3, **SETTINGS).batch(3, 4, 0)
    )
    streamed.close()


def test_reading_ahead_is_bounded_and_in_any_order_right():
    """A slow and uneven reader counts the samples that are read before they are used."""
    started, lock, waits = [0], threading.Lock(), random.Random(0)

    def read(positions, out):
        with lock:
            started[0] += len(positions)
            wait = waits.random() / 500
        time.sleep(wait)
        out.copy_((positions % 251).to(torch.uint8)[:, None].expand(-1, 2))

    def positions(step):
        return torch.arange(10 * step, 10 * step + 10)

    ahead, most = Ahead(read, 3), 0
    for step in (0, 1, 2, 3, 7, 8, 9, 2, 3):
        before = started[0]
        x = ahead.take(step, positions, (2,), "plan")
        assert torch.equal(x[:, 0], (positions(step) % 251).to(torch.uint8)) and x.shape == (10, 2)
        most = max(most, started[0] - before)
    assert most <= 10 * 2 * (DEPTH + 1)  # those of the plan that is dropped, and of the next one
    ahead.close()


# Identity


def test_digest_distinguishes_bytes_labels_parts_and_forms(places, tmp_path):
    files = photographs()
    write_files(tmp_path / "copy", files)
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (1, 1))
    settings = {"channels": 3, **SETTINGS}
    digest = Streamed(places / "set", **settings).digest
    assert Streamed(tmp_path / "copy", **settings).digest == digest  # independent of place and time
    for change in ({"seed": 1}, {"labels": None, "condition": None}, {"crop": 8}, {"size": 7}):
        assert Streamed(places / "set", **{**settings, **change}).digest != digest
    assert Streamed(places / "set", **{**settings, "flip": False, "workers": 0}).digest == digest
    name = next(name for name in files if name.endswith("png"))
    array = np.asarray(Image.open(io.BytesIO(files[name]))).copy()
    array[0, 0] ^= 1
    for place, pack in (("set", write_files), ("set.zip", None), ("set.tar", write_tar)):
        changed = files | {name: png(array)}
        root = _packed(tmp_path / f"changed {place[4:]}", place, changed)
        assert pack is None or root.exists()
        assert Streamed(root, **settings).digest != digest


# Runs


@pytest.mark.slow
def test_a_run_streams_its_images_and_goes_on_from_the_middle(tmp_path, capsys):
    """2 + 2 steps, with other workers, give the weights of 4 steps on images in memory."""
    from scoresde.training import checkpoint

    settings = [*images(tmp_path / "data", 6, 7), "train.checkpoint_every=2"]
    settings += ["evaluate/quality=none", "condition=none"]
    streamed = [setting.replace("data=folder", "data=streamed") for setting in settings]
    whole = [*settings, "train.steps=4"]
    start(tmp_path / "memory", *whole)
    start(tmp_path / "run", *streamed, "data.workers=1")
    assert "found 13 images" in capsys.readouterr().out
    start(tmp_path / "run", *streamed, "data.workers=0", "train.steps=4", "resume=auto")
    assert "continues after step 2" in capsys.readouterr().out
    weights = [
        torch.load(checkpoint.available(tmp_path / name / "checkpoints")[-1], weights_only=True)
        for name in ("memory", "run")
    ]
    for name, values in weights[0]["model"].items():
        assert torch.equal(values, weights[1]["model"][name])
    (tmp_path / "data" / "0" / "3.png").write_bytes(png(noise(0, 8, 8)))
    more = [*streamed, "train.steps=6", "resume=auto"]
    code, sentence = ends(capsys, tmp_path / "run", *more)
    assert code == 2 and "other data: 12 + 1 samples (train + test), as now, of another" in sentence


def test_a_likelihood_of_too_many_is_refused_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("scoresde.data.streamed.AT_ONCE", 8 * 8 * 20)
    settings = [s.replace("data=folder", "data=streamed") for s in images(tmp_path / "data", 40)]
    run = [*settings, "evaluate/likelihood=flow", "data.test_fraction=0.6"]
    code, sentence = ends(capsys, tmp_path / "run", *run)
    assert code == 2 and "24 samples of 'data' are asked for at once, and at most 20" in sentence
    assert "set evaluate.scored, or evaluate/likelihood=none" in sentence
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["celebahq_1024_ncsnpp_ve", "bedroom_128_ncsnv2", "celeba_ncsnv2"])
def test_presets_get_the_batches_of_their_size(name, tmp_path):
    """Presets get training batches of their size from larger and from smaller photographs."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"experiment={name}", f"data.root='{tmp_path}'"])
    cfg.data.range, size = [0.0, 1.0], min(cfg.train.batch_size, 8)
    write_files(tmp_path, {f"{i}.png": png(noise(i, 218, 178 + 20 * i, 3)) for i in range(9)})
    data = make(cfg.data)
    x, condition = data.batch(0, size, seed=0)
    assert x.shape == (size, 3, cfg.data.size, cfg.data.size) and condition is None
    # Without dequantization every value is the middle of its cell.
    assert torch.equal(data.scale(data.quantize(x)), x)
