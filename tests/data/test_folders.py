"""Folders and zips: which files count as images, and the part and label of each."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde.data import CIFAR10, MNIST, Digits, Folder
from scoresde.data.split import part_by_name
from tests.data.test_data import Grey, noise
from tests.data.test_readers import npy, png, together, write_files, write_zip


def grey(level):
    """A 2 x 2 image of one level, which identifies it."""
    return png(np.full((2, 2), level, np.uint8))


def levels(images):
    return sorted(images[:, 0, 0, 0].tolist())


def labelled(folder):
    """The level and the label of each image."""
    both = [(folder.train, folder.train_labels), (folder.test, folder.test_labels)]
    pairs = [
        pair
        for images, labels in both
        for pair in zip(images[:, 0, 0, 0].tolist(), labels.tolist(), strict=True)
    ]
    return dict(pairs)


def write(tmp_path, files, packed):
    root = tmp_path / ("set.zip" if packed else "set")
    (write_zip if packed else write_files)(root, files)
    return root


CHUNKS = {f"{i // 3 * 1000:05d}/img{i:08d}.png": grey(i) for i in range(9)}
CLASSES = {f"{name}/{i}.png": grey(10 * len(name) + i) for name in ("a", "bb") for i in range(4)}
PARTS = {f"train/{name}": content for name, content in CLASSES.items()}
PARTS |= {"test/a/0.png": grey(70), "test/bb/1.png": grey(80)}


# Labels


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("files", [CHUNKS, CLASSES, PARTS])
def test_folders_are_no_labels_unless_asked_for(files, packed, tmp_path):
    folder = Folder(write(tmp_path, files, packed))
    assert folder.train_labels is None and folder.test_labels is None
    assert folder.quality is None and len(folder.train) + len(folder.test) == len(files)
    offered = "no labels read; there are data.labels=folders" in folder.report
    assert offered is (files is not CHUNKS)


def test_folders_named_by_digits_are_classes_where_they_can_be_no_chunks(tmp_path):
    digits = {f"{label}/{i}.png": grey(2 * label + i) for label in range(10) for i in range(2)}
    write_files(tmp_path / "digits", digits)
    assert labelled(Folder(tmp_path / "digits", labels="folders")) == {i: i // 2 for i in range(20)}
    write_files(tmp_path / "chunks", CHUNKS)
    with pytest.raises(ValueError, match=r"finds no class: .*four or more digits \(00000\).*numb"):
        Folder(tmp_path / "chunks", labels="folders")
    numbered = Folder(tmp_path / "chunks", labels="numbered_folders")
    assert labelled(numbered) == {i: i // 3 for i in range(9)}
    both = {f"{name[0]}/{i % 2:05d}/{i}.png": grey(i) for i, name in enumerate(("cat", "dog") * 3)}
    write_files(tmp_path / "both", both)
    chunked = Folder(tmp_path / "both", labels="folders")
    assert labelled(chunked) == {i: i % 2 for i in range(6)}
    assert "2 classes by folder (c, d)" in chunked.report


@pytest.mark.parametrize("packed", [False, True])
def test_train_and_test_folders_are_the_parts(packed, tmp_path):
    folder = Folder(write(tmp_path, PARTS, packed), labels="folders", test_fraction=0.9)
    assert levels(folder.train) == [10, 11, 12, 13, 20, 21, 22, 23]
    assert levels(folder.test) == [70, 80]
    assert labelled(folder) == {
        **{10 + i: 0 for i in range(4)},
        **{20 + i: 1 for i in range(4)},
    } | {
        70: 0,
        80: 1,
    }
    assert "8 for training, 2 for test; the parts are those of its folders" in folder.report


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        ("train/a training/b", None, None),  # without a test part there are no parts
        ("test/a other/b", None, None),
        ("train/a val/b", "train/a", "val/b"),
        ("Train/x/a Validation/x/b", "Train/x/a", "Validation/x/b"),
        ("set/train/a set/test/b", "set/train/a", "set/test/b"),
        ("train/a valid/b test/c unlabeled/d", "train/a", "test/c"),
        ("cat/train/a cat/test/b dog/train/c", "cat/train/a dog/train/c", "cat/test/b"),
        ("cat/train/a cat/test/b dog/c", None, None),
        ("data/train-0-of-1.parquet data/test-0-of-1.parquet", None, None),
    ],
)
def test_parts_are_read_off_names(names, train, test):
    names = names.split()
    parting = part_by_name(names, [name.endswith("parquet") for name in names])
    found = {
        part: [n for n, p in zip(names, parting.part, strict=True) if p == part]
        for part in ("train", "test")
    }
    if "parquet" in names[0]:
        train, test = names
    if train is None:
        assert not parting.named and found["train"] == names
    else:
        assert parting.named
        assert (found["train"], found["test"]) == (train.split(), test.split())
    if train is not None and "cat" in train:
        assert parting.below == ["cat", "cat", "dog"]


def test_images_in_neither_part_are_counted(tmp_path):
    write_files(tmp_path, PARTS | {"val/a/1.png": grey(99), "logo.png": grey(98)})
    folder = Folder(tmp_path)
    assert len(folder.train) == 8 and len(folder.test) == 2
    assert "(2 skipped: 2 in neither part (not read))" in folder.report


@pytest.mark.parametrize("packed", [False, True])
def test_dataset_json_gives_labels_where_asked(packed, tmp_path):
    listed = [[name.replace("/", "\\" if i % 2 else "/"), i] for i, name in enumerate(CHUNKS)]
    content = json.dumps({"labels": [*listed, ["00000/absent.png", 1]]}).encode()
    root = write(tmp_path, CHUNKS | {"dataset.json": content}, packed)
    folder = Folder(root)
    assert folder.train_labels is None
    assert folder.report.endswith("no labels read; there are data.labels=dataset.json")
    folder = Folder(root, labels="dataset.json")
    assert labelled(folder) == {i: i for i in range(9)}
    assert "labels by dataset.json, 1 of them of no image" in folder.report


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file under"),
        ({"labels": None}, 'has no labels .*"labels" is null'),
        ({"labels": []}, "has no labels"),
        ({"labels": [["00000/img00000000.png", 1]]}, "no label for the image 00000/img00000001"),
        ({"labels": [["00000/img00000000.png", 1.5]]}, r"it holds the label 1\.5"),
        ({"labels": [["00000/img00000000.png", True]]}, "it holds the label True"),
        ({"labels": [["00000/img00000000.png", -1]]}, "it holds the label -1"),
        ({"labels": [["00000/img00000000.png", 2**70]]}, "it holds the label 1180"),
        ({"label": 3}, r"is not \{\"labels\": .*KeyError"),
        ({"labels": [[1, 2, 3]]}, r"is not \{\"labels\""),
        ([1], r"is not \{\"labels\""),
    ],
)
def test_unusable_dataset_json_is_named(content, message, tmp_path):
    extra = {} if content is None else {"dataset.json": json.dumps(content).encode()}
    write_files(tmp_path, CHUNKS | extra)
    with pytest.raises(ValueError, match=message):
        Folder(tmp_path, labels="dataset.json")
    assert Folder(tmp_path).train_labels is None  # labels are read only if they are chosen


@pytest.mark.parametrize(
    ("files", "labels", "message"),
    [
        (CLASSES | {"logo.png": grey(9)}, "folders", r"1 images lie in no class's.*\(logo.png\)"),
        ({"a/1.png": grey(1), "a/2.png": grey(2)}, "folders", "needs at least 2 class folders"),
        (CLASSES, "folder", "has no labels? 'folder'|holds no labels 'folder'"),
        (CLASSES, True, "labels must be null, folders, numbered_folders, dataset.json, or"),
    ],
)
def test_unusable_labels_are_named(files, labels, message, tmp_path):
    write_files(tmp_path, files)
    with pytest.raises(ValueError, match=message):
        Folder(tmp_path, labels=labels)


# Which files are read


def test_linked_folders_and_files_are_read_once_and_loops_end(tmp_path):
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    write_files(root, {"real/1.png": grey(1), "real/2.png": grey(2)})
    write_files(elsewhere, {"x/3.png": grey(3), "4.png": grey(4)})
    (root / "a_linked").symlink_to(elsewhere / "x")
    (root / "again").symlink_to(root / "real")  # this is the same folder under another name
    (root / "real" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "one.png").symlink_to(elsewhere / "4.png")
    (root / "two.png").symlink_to(root / "real" / "1.png")
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    (elsewhere / "x" / "back").symlink_to(elsewhere / "x")
    folder = Folder(root)
    assert levels(torch.cat([folder.train, folder.test])) == [1, 2, 3, 4]
    assert "3 folders that are read already (linked)" in folder.report
    assert "1 files that are read already (linked)" in folder.report
    assert "2 broken links" in folder.report
    (root / "one.png").unlink()
    folder = Folder(root, labels="folders")
    assert labelled(folder) == {1: 1, 2: 1, 3: 0}  # a_linked, real


def test_a_line_says_what_was_read_and_what_was_not(tmp_path):
    files = {f"{i}.png": grey(i) for i in range(3)} | {f"{i}.TIF": b"II*" for i in range(10)}
    files |= {".hidden.png": b"", "__MACOSX/1.png": b"", "LICENSE": b"", "sub/5.PNG": grey(5)}
    write_files(tmp_path / "set", files)
    folder = Folder(tmp_path / "set")
    assert folder.report == (
        f"read 4 images from {tmp_path / 'set'} (13 skipped: 10 tif (not read), 2 hidden, "
        "1 without suffix (not read)): 3 for training, 1 for test"
    )
    for name in ("0.png", "1.png", "2.png", "sub/5.PNG"):
        (tmp_path / "set" / name).unlink()
    with pytest.raises(ValueError, match=r"is empty \(0 images .*13 skipped: 10 tif \(not read\)"):
        Folder(tmp_path / "set")


@pytest.mark.parametrize("packed", [False, True])
def test_what_a_run_wrote_is_no_data(packed, tmp_path):
    run = {"config.yaml": b"", "samples.png": grey(200), "checkpoints/step_2.pt": b""}
    files = {f"{i}.png": grey(i) for i in range(4)}
    files |= {f"mine/{name}": content for name, content in run.items()}
    files |= {"outputs/2026-01-02_03-04-05_digits-vp-pc/loss.png": grey(201)}
    files |= {"multirun/2026-01-02_03-04-05/0_digits-vp-pc/samples.png": grey(202)}
    files |= {"outputs/drawing.png": grey(7), "other/config.yaml": b"", "other/8.png": grey(8)}
    folder = Folder(write(tmp_path, files, packed))
    assert levels(torch.cat([folder.train, folder.test])) == [0, 1, 2, 3, 7, 8]
    assert "3 folders of runs (a run's own output)" in folder.report
    if not packed:
        with pytest.raises(ValueError, match=r"is empty .*1 folders of runs"):
            Folder(tmp_path / "set" / "mine")


@pytest.mark.parametrize("build", [Folder, MNIST, CIFAR10])
@pytest.mark.parametrize("root", ["", "  ", None, False, 1.5])
def test_an_empty_root_is_refused(build, root, tmp_path, monkeypatch):
    write_files(tmp_path, {"1.png": grey(1), "2.png": grey(2)})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"data\.root must be a path, got"):
        build(root)
    assert len(Folder(".").train) == 1
    with pytest.raises(ValueError, match="is the whole file system; is a shell variable unset"):
        build("/")


def test_zip_entries_that_are_no_files_are_not_read(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("class.png/", b"")
        archive.writestr("class.png/1.png", grey(1))
        archive.writestr("windows\\2.png", grey(2))
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "class.png/1.png")
    folder = Folder(path)
    assert levels(torch.cat([folder.train, folder.test])) == [1, 2]
    assert "(1 skipped: 1 links in the zip (not followed))" in folder.report
    assert "data.labels=folders" in folder.report  # class.png and windows


def test_names_that_are_no_text_can_be_reported(tmp_path):
    root = tmp_path / "set"
    write_files(root, CLASSES)
    Path(root / "x.\udcff").write_bytes(b"")
    Folder(root, labels="folders").report.encode()


# Properties of all sets


def test_digest_distinguishes_samples_shapes_labels_and_parts(tmp_path, monkeypatch):
    digest = Grey(levels=256).digest
    assert len(digest) == 64 and Grey(levels=256).digest == digest
    monkeypatch.setattr("scoresde.data.digest._CHUNK", 7)
    assert Grey(levels=256).digest == digest
    others = [Grey(levels=256) for _ in range(6)]
    others[0].train[17, 1, 2, 3] += 1
    others[1].train_labels[3] = 90
    others[2].test_labels = None
    others[3].train = others[3].train.transpose(2, 3).contiguous()
    others[4].train, others[4].test = others[4].test, others[4].train
    others[5].train = others[5].train.view(96, 3, 2, 5)
    write_files(tmp_path, CLASSES)
    mine = [Folder(tmp_path), Folder(tmp_path, labels="folders"), Folder(tmp_path, seed=1)]
    digests = [digest, *(other.digest for other in (*others, *mine))]
    assert len(set(digests)) == 10
    assert Folder(tmp_path).digest == mine[0].digest


def test_only_digits_ask_for_the_metric_of_digits():
    assert Digits().quality == MNIST.quality == "classifier"
    assert Folder.quality is CIFAR10.quality is Grey.quality is None
    assert Digits().report == "read 1797 digits of scikit-learn: 1438 for training, 359 for test"


def test_library_prints_nothing(tmp_path, capsys):
    write_files(tmp_path, {"1.png": grey(1), "2.npy": npy(noise(0, 2, 2)), "3.gif": b""})
    assert len(together(Folder(tmp_path))) == 2
    assert capsys.readouterr().out == ""
