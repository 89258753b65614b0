"""The file formats of image sets: IDX, CIFAR-10 in all its forms, folders and zips of images."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.data import CIFAR10, MNIST, Folder
from tests.data.test_data import noise
from tests.places import SHARED

REAL = SHARED / "data"
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"

# MNIST


def idx(array):
    return (
        bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


def write_mnist(root, zipped):
    parts = {}
    for i, (prefix, n) in enumerate((("train", 12), ("t10k", 5))):
        images, labels = noise(i, n, 28, 28), noise(i + 2, n) % 10
        parts[prefix] = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()
        for array, kind in ((images, "images-idx3-ubyte"), (labels, "labels-idx1-ubyte")):
            path, content = root / f"{prefix}-{kind}", idx(array)
            if zipped:
                path, content = path.with_name(path.name + ".gz"), gzip.compress(content)
            path.write_bytes(content)
    return parts


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_reads_the_four_idx_files(zipped, tmp_path):
    parts = write_mnist(tmp_path, zipped)
    mnist = MNIST(tmp_path)
    assert torch.equal(mnist.train, parts["train"][0]) and torch.equal(mnist.test, parts["t10k"][0])
    assert torch.equal(mnist.train_labels, parts["train"][1])
    assert torch.equal(mnist.test_labels, parts["t10k"][1])
    padded = MNIST(str(tmp_path), pad=2)
    assert padded.shape == (1, 32, 32)
    assert torch.equal(padded.train[..., 2:-2, 2:-2], mnist.train)
    assert int(padded.train.sum()) == int(mnist.train.sum())


def spoil(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("zipped", "change", "message"),
    [
        (True, lambda b: b[:-20], "expected a complete gzip file"),
        (True, lambda b: b[:200] + b"\0\0\0\0" + b[204:], "expected a complete gzip file"),
        (True, lambda b: b"<html>not found</html>", "expected a complete gzip file"),
        (True, lambda b: b"", "corrupt or truncated|magic number"),
        (False, lambda b: b[:-1], r"says \(12, 28, 28\), so expected 9424 bytes, got 9423"),
        (False, lambda b: b + b"\0", "expected 9424 bytes, got 9425"),
        (False, lambda b: b[:9], "corrupt or truncated"),
        (False, lambda b: b"\0\0\x0d\3" + b[4:], "magic number 0x00000d03, expected 0x00000803"),
    ],
)
def test_spoilt_mnist_file_is_named(zipped, change, message, tmp_path):
    write_mnist(tmp_path, zipped)
    path = tmp_path / ("train-images-idx3-ubyte" + ".gz" * zipped)
    spoil(path, change)
    with pytest.raises(ValueError, match=f"{path}.*({message})"):
        MNIST(tmp_path)


def test_missing_or_disagreeing_mnist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MNIST file train-images-idx3-ubyte\[\.gz\] not"):
        MNIST(tmp_path / "absent")
    write_mnist(tmp_path, zipped=False)
    with pytest.raises(ValueError, match="pad must be an integer ≥ 0, got -1"):
        MNIST(tmp_path, pad=-1)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(noise(0, 4)))
    with pytest.raises(ValueError, match=r"t10k files .* disagree: 5 images, 4 labels"):
        MNIST(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte\[\.gz\] not found under"):
        MNIST(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "mnist").is_dir(), reason="the real MNIST files are not here")
def test_real_mnist_has_its_published_statistics():
    mnist = MNIST(REAL / "mnist")
    assert mnist.train.shape == (60000, 1, 28, 28) and mnist.test.shape == (10000, 1, 28, 28)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.train_labels.bincount().tolist() == counts
    # The mean commonly used for normalisation, quoted to four digits.
    assert mnist.train.float().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)


# CIFAR-10


def python2_batch(pixels, labels):
    """The bytes of an official batch as Python 2 pickles them, with protocol 2 and byte strings."""

    def text(t):
        return b"U" + bytes([len(t)]) + t

    def number(i):
        return b"J" + struct.pack("<i", i)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R"
    dtype += b"(K\3" + text(b"|") + b"NNN" + number(-1) + number(-1) + b"K\0tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
    )
    content = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    array += b"(K\1" + number(len(pixels)) + number(3072) + b"\x86" + dtype + b"\x89" + content
    listed = b"](" + b"".join(number(i) for i in labels.tolist()) + b"e"
    pairs = text(b"batch_label") + text(b"testing batch 1 of 1") + text(b"labels") + listed
    return b"\x80\2}(" + pairs + text(b"data") + array + b"tb" + text(b"filenames") + b"]u."


def python3_batch(pixels, labels):
    return pickle.dumps({"data": pixels, "labels": labels.tolist()}, protocol=4)


def binary_batch(pixels, labels):
    return np.concatenate([labels[:, None].astype(np.uint8), pixels], 1).tobytes()


FORMS = {
    "binary": ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", binary_batch),
    "python2": ("cifar-10-batches-py", "cifar-10-python.tar.gz", "", python2_batch),
    "python3": ("cifar-10-batches-py", "cifar-10-python.tar.gz", "", python3_batch),
}


def write_cifar(root, form, packed=False):
    """Write six batches of four images, and return the pixels and labels of each."""
    folder, archive, suffix, encode = FORMS[form]
    names = [f"data_batch_{i}{suffix}" for i in (1, 2, 3, 4, 5)] + [f"test_batch{suffix}"]
    parts = [(noise(i, 4, 3072), noise(i + 9, 4).astype(np.int64) % 10) for i in range(6)]
    (root / folder).mkdir()
    for name, part in zip(names, parts, strict=True):
        (root / folder / name).write_bytes(encode(*part))
    (root / folder / "readme.html").write_text("not a batch")
    if packed:
        with tarfile.open(root / archive, "w:gz") as tar:
            tar.add(root / folder, folder)
        for path in (root / folder).iterdir():
            path.unlink()
        (root / folder).rmdir()
    return parts


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_cifar10_reads_every_official_form(form, packed, tmp_path):
    parts = write_cifar(tmp_path, form, packed)
    cifar = CIFAR10(tmp_path, flip=False)
    pixels = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts]))
    labels = torch.from_numpy(np.concatenate([labels for _, labels in parts]))
    assert torch.equal(cifar.train, pixels[:20].view(20, 3, 32, 32))
    assert torch.equal(cifar.test, pixels[20:].view(4, 3, 32, 32))
    assert torch.equal(cifar.train_labels, labels[:20])
    assert torch.equal(cifar.test_labels, labels[20:])


class Call:
    """An object whose pickle calls a function, as a malicious file does."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "name"), [(os.mkdir, r"(posix|nt)\.mkdir"), (np.save, r"numpy\.save")]
)
def test_malicious_pickle_is_refused_by_name_and_not_executed(function, name, protocol, tmp_path):
    mark, arguments = tmp_path / "mark", [1] * (function is np.save)
    attack = pickle.dumps({"data": Call(function, str(mark), *arguments)}, protocol=protocol)
    write_cifar(tmp_path, "python2")
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(attack)
    with pytest.raises(ValueError, match=f"{path} is not a CIFAR-10 batch.*asks for {name}, which"):
        CIFAR10(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cifar-10-batches-py"]
    pickle.loads(attack)  # an ordinary unpickler runs the attack
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("binary", lambda b: b[:-1], "expected records of 3073 bytes, got 12291 bytes"),
        ("binary", lambda b: b[:-3073], r"batches of one size, got \[4, 4, 3, 4, 4, 4\]"),
        ("binary", lambda b: b"\x0a" + b[1:], "labels outside 0..9"),
        ("python2", lambda b: b[:-400], "is not a CIFAR-10 batch"),
        ("python2", lambda b: b"", "is not a CIFAR-10 batch"),
        ("python2", lambda b: b.replace(b"u1", b"i8"), "is not a CIFAR-10 batch"),
        ("python3", lambda b: pickle.dumps([1, 2, 3]), "is not a CIFAR-10 batch"),
        ("python3", lambda b: python3_batch(noise(0, 4, 3072), noise(0, 3)), "with 3 labels"),
        ("python3", lambda b: python3_batch(noise(0, 4, 48), noise(0, 4)), r"shape \(4, 48\)"),
    ],
)
def test_spoilt_cifar10_batch_is_named(form, change, message, tmp_path):
    write_cifar(tmp_path, form)
    folder, _, suffix, _ = FORMS[form]
    path = tmp_path / folder / f"data_batch_3{suffix}"
    spoil(path, change)
    with pytest.raises(ValueError, match=message) as caught:
        CIFAR10(tmp_path)
    assert folder in str(caught.value) and "www.cs.toronto.edu" in str(caught.value)


def test_missing_or_truncated_cifar10_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 not found under data.root=.*train.zip"):
        CIFAR10(tmp_path)
    write_cifar(tmp_path, "binary", packed=True)
    archive = tmp_path / "cifar-10-binary.tar.gz"
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], b"<html>", b""):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match=f"{archive} is corrupt or truncated"):
            CIFAR10(tmp_path)
    archive.unlink()
    write_cifar(tmp_path, "binary")
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_batch.bin not found in .*batches-bin"):
        CIFAR10(tmp_path)


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png")
    return stream.getvalue()


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def test_cifar10_zips_deal_the_classes_out_in_turn(tmp_path):
    classes = CLASSES.split()
    pictures = {f"{c}/{i}.png": noise(9 * i + len(c), 32, 32, 3) for c in classes for i in range(3)}
    for part in ("train", "test"):
        write_zip(tmp_path / f"{part}.zip", {name: png(pictures[name]) for name in pictures})
    cifar = CIFAR10(tmp_path)
    assert cifar.train_labels.tolist() == list(range(10)) * 3
    for place in (0, 7, 13, 29):
        image = pictures[f"{classes[place % 10]}/{place // 10}.png"]
        assert torch.equal(cifar.test[place], torch.from_numpy(image).permute(2, 0, 1))
    write_zip(
        tmp_path / "test.zip", {name: png(p) for name, p in pictures.items() if "cat" in name}
    )
    with pytest.raises(ValueError, match=r"test.zip holds .* in the folders \['cat'\], expected"):
        CIFAR10(tmp_path)


@pytest.mark.skipif(not (REAL / "cifar10_jpeg").is_dir(), reason="the CIFAR-10 zips are not here")
def test_real_cifar10_jpegs(tmp_path):
    for part in ("train", "test"):
        with zipfile.ZipFile(REAL / "cifar10_jpeg" / f"{part}.zip") as archive:
            names = [name for name in archive.namelist() if int(Path(name).stem) < 20]
            write_zip(tmp_path / f"{part}.zip", {name: archive.read(name) for name in names})
            frog = np.asarray(Image.open(io.BytesIO(archive.read("frog/0002.jpg"))))
    cifar = CIFAR10(tmp_path)
    assert cifar.train.shape == cifar.test.shape == (200, 3, 32, 32)
    assert cifar.test_labels[26] == 6
    assert torch.equal(cifar.test[26], torch.from_numpy(frog.copy()).permute(2, 0, 1))
    # Channel means of CIFAR-10 are 125.3, 123.0, 113.9; 200 images spread them by 40 / sqrt(200).
    mean = cifar.train.float().mean((0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor([125.3, 123.0, 113.9]), atol=12, rtol=0)


# Folders


def write_files(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def together(folder):
    """All images and labels of a set, sorted by content."""
    images = torch.cat([folder.train, folder.test]).flatten(1).tolist()
    if folder.train_labels is None:
        return sorted(images)
    labels = torch.cat([folder.train_labels, folder.test_labels]).tolist()
    return sorted(zip(images, labels, strict=True))


@pytest.mark.parametrize("packed", [False, True])
def test_folder_reads_images_below_it_and_labels_by_directory(packed, tmp_path):
    arrays = {f"{c}/{i}": noise(i + 10 * len(c), 6, 8, 3) for c in ("a", "bb/c") for i in range(10)}
    files = {f"{n}.png": png(a) for n, a in arrays.items() if not n.endswith("3")}
    files |= {f"{n}.npy": npy(a) for n, a in arrays.items() if n.endswith("3")}
    extra = {"notes.txt": b"no image", ".thumb.png": b"hidden", "__MACOSX/a/._1.png": b"hidden"}
    root = tmp_path / ("set.zip" if packed else "set")
    (write_zip if packed else write_files)(root, {**files, **extra})
    folder = Folder(root, test_fraction=0.25, labels="folders")
    expected = [(a.transpose(2, 0, 1).flatten().tolist(), int("b" in n)) for n, a in arrays.items()]
    assert together(folder) == sorted(expected)
    assert len(folder.train) == 15 and folder.shape == (3, 6, 8) and folder.name == "set"
    again = Folder(root, test_fraction=0.25, labels="folders")
    other = Folder(root, test_fraction=0.25, seed=1)
    assert torch.equal(folder.train, again.train) and not torch.equal(folder.train, other.train)
    assert torch.equal(folder.test_labels, again.test_labels)
    write_zip(tmp_path / "reversed.zip", dict(reversed(files.items())))
    stored_otherwise = Folder(tmp_path / "reversed.zip", test_fraction=0.25)
    assert torch.equal(folder.train, stored_otherwise.train)


def test_folder_turns_photographs_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # The orientation asks for a rotation by a quarter turn clockwise.
    for name in ("a.png", "b.png"):
        Image.fromarray(noise(0, 4, 6)).save(tmp_path / name, exif=exif)
    expected = torch.from_numpy(np.rot90(noise(0, 4, 6), -1).copy())
    assert torch.equal(Folder(tmp_path).train[0, 0], expected)


def test_folder_crops_resizes_and_converts(tmp_path):
    gradient = np.linspace(0, 255, 24 * 40).reshape(24, 40).astype(np.uint8)
    write_files(tmp_path, {"a.png": png(gradient), "b.npy": npy(gradient.T[..., None].copy())})
    write_files(tmp_path, {"c.png": png(np.repeat(gradient[..., None], 3, 2))})
    exact = Folder(tmp_path, size=24, channels=1)
    images = torch.cat([exact.train, exact.test])
    centre = torch.from_numpy(gradient[:, 8:32].copy())
    assert exact.shape == (1, 24, 24) and exact.train_labels is None
    # At the crop's own size nothing is interpolated.
    assert sorted(map(tuple, images.flatten(1).tolist())) == sorted(
        [tuple(centre.flatten().tolist())] * 2 + [tuple(centre.T.flatten().tolist())]
    )
    small = Folder(tmp_path, size=6, channels=3)
    assert small.shape == (3, 6, 6)
    blocks = centre.float().view(6, 4, 6, 4).mean((1, 3))
    # On a linear ramp an antialiasing filter is a local mean, to rounding and the border's bias.
    for image in torch.cat([small.train, small.test]).float():
        turned = image if image[0, 0, 5] < image[0, 5, 0] else image.mT
        torch.testing.assert_close(turned, blocks.expand(3, 6, 6), atol=4, rtol=0)


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({}, {}, r"dataset 'set' is empty \(0 images under .*set; accepted: png, jpg, jpeg, bmp"),
        ({"a.txt": b"text"}, {}, "is empty"),
        ({"a.png": png(noise(0, 4, 4))}, {}, "has 1 image under"),
        ({"a.png": b"GIF89a"}, {}, "a.png is corrupt, truncated or not what its name says"),
        ({"a.png": b"%!PS-Adobe-3.0 EPSF-3.0\n"}, {}, "a.png is corrupt, truncated or not"),
        ({"a.png": png(noise(0, 40, 40))[:-60]}, {}, "a.png is corrupt, truncated"),
        ({"a.npy": npy(noise(0, 4, 4))[:-3]}, {}, "a.npy is corrupt, truncated"),
        ({"a.npy": npy(noise(0, 4, 4) / 255)}, {}, r"a.npy holds float64 \(4, 4\), expected one"),
        ({"a.npy": npy(noise(0, 2, 5, 4, 4))}, {}, r"a.npy holds uint8 \(2, 5, 4, 4\)"),
        ({"a.png": png(noise(0, 4, 4).astype(np.uint16))}, {}, "a.png has deep pixels"),
        (
            {
                "a.png": png(noise(0, 4, 4)),
                "b.png": png(noise(0, 4, 4)),
                "c.png": png(noise(0, 5, 4)),
            },
            {},
            r"c.png is 4x5, the first image \(.*a.png\) is 4x4; all must agree: set data.size",
        ),
        (
            {"a.png": png(noise(0, 4, 4)), "b.png": png(noise(0, 4, 4, 3))},
            {},
            r"b.png has 3 channels, the first image \(.*a.png\) has 1; set data.channels",
        ),
        ({}, {"size": 0}, "size must be an integer ≥ 1 or null, got 0"),
        ({}, {"channels": 4}, "channels must be 1, 3 or null, got 4"),
    ],
)
def test_unusable_folder_is_named(files, settings, message, tmp_path):
    (tmp_path / "set").mkdir()
    write_files(tmp_path / "set", files)
    with pytest.raises(ValueError, match=message):
        Folder(tmp_path / "set", **settings)


def test_object_array_and_broken_zip_are_refused(tmp_path):
    mark = tmp_path / "mark"
    attack = np.empty(1, object)
    attack[0] = Call(os.mkdir, str(mark))
    write_files(tmp_path / "set", {"a.npy": npy(attack)})
    with pytest.raises(ValueError, match=r"a.npy is corrupt, truncated or not"):
        Folder(tmp_path / "set")
    assert not mark.exists()
    archive = tmp_path / "set.zip"
    write_zip(archive, {"a.png": png(noise(0, 9, 9)), "b.png": png(noise(1, 9, 9))})
    whole = archive.read_bytes()
    assert len(Folder(archive).train) == 1
    for content in (whole[:100], whole.replace(b"IDAT", b"IDOT", 1), b"", b"<html>"):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match=f"{archive}.* is corrupt, truncated or encrypted"):
            Folder(archive)
    with pytest.raises(FileNotFoundError, match=r"data.root=.*absent not found; set it to a dir"):
        Folder(tmp_path / "absent")
