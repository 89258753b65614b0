"""File formats beyond the plain ones: depth of colour, stacks, tables, and other spellings."""

import gzip
import io
import pickle
import struct
import sys
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from data import CIFAR10, MNIST, Folder

from .test_data import noise
from .test_readers import (
    FORMS,
    Call,
    idx,
    npy,
    png,
    together,
    write_cifar,
    write_files,
    write_mnist,
    write_zip,
)


def chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def raw_png(width, rows, depth, colour, palette=None):
    """A PNG written by hand, of any depth and colour type; rows are packed bytes."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    if palette is not None:
        content += chunk(b"PLTE", bytes(palette))
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    return content + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def encoded(array, kind, **settings):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **settings)
    return stream.getvalue()


def images(folder):
    return torch.cat([folder.train, folder.test])


# Depth of colour


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_deep_pixels_are_refused_by_the_files_own_depth(colour, channels, suffix, tmp_path):
    """Pillow itself would give the high bytes: values 0 to 4095 would become 16 levels."""
    values = np.random.default_rng(0).integers(0, 4096, (3, 4 * channels)).astype(">u2")
    deep = raw_png(4, [row.tobytes() for row in values], 16, colour)
    Image.open(io.BytesIO(deep)).load()
    write_files(tmp_path, {f"a.{suffix}": deep, "b.png": deep})
    with pytest.raises(ValueError, match=rf"a\.{suffix} has deep pixels of 16 bits per channel"):
        Folder(tmp_path)
    with pytest.raises(ValueError, match="deep pixels"):
        Folder(tmp_path, channels=1, size=2)


def test_deep_jpeg_is_refused_by_its_frame(tmp_path):
    shallow = encoded(noise(0, 8, 8), "jpeg")
    frame = shallow.index(b"\xff\xc0")
    deep = shallow[: frame + 4] + b"\x0c" + shallow[frame + 5 :]
    write_files(tmp_path, {"a.jpg": deep, "b.jpg": shallow})
    with pytest.raises(ValueError, match=r"a\.jpg has deep pixels of 12 bits per channel"):
        Folder(tmp_path)
    (tmp_path / "a.jpg").write_bytes(shallow)
    assert len(Folder(tmp_path).train) == 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_shallow_grey_and_palettes_become_their_values(depth, tmp_path):
    levels = 2**depth
    values = np.arange(8) % levels
    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = int(bits, 2).to_bytes(depth, "big")
    palette = noise(1, levels, 3)
    grey, coloured = (raw_png(8, [row], depth, 0), raw_png(8, [row], depth, 3, palette.ravel()))
    write_files(tmp_path / "grey", {"a.png": grey, "b.png": grey})
    write_files(tmp_path / "coloured", {"a.png": coloured, "b.png": coloured})
    expected = torch.from_numpy(values * 255 // (levels - 1)).to(torch.uint8)
    assert torch.equal(Folder(tmp_path / "grey").train[0, 0, 0], expected)
    colours = torch.from_numpy(palette[values]).T
    assert torch.equal(Folder(tmp_path / "coloured").train[0, :, 0], colours)


def test_transparency_is_dropped_in_every_mode(tmp_path):
    palette = Image.fromarray(noise(0, 4, 4) // 64).convert("P")
    palette.putpalette(noise(1, 256, 3).ravel().tolist())
    palette.save(tmp_path / "a.png", transparency=bytes([0, 128, 255, 255]))
    expected = torch.from_numpy(np.asarray(palette.convert("RGB")).transpose(2, 0, 1).copy())
    write_files(tmp_path, {"b.png": png(noise(2, 4, 4, 4))})
    found = images(Folder(tmp_path))
    assert any(torch.equal(image, expected) for image in found)
    opaque = torch.from_numpy(noise(2, 4, 4, 4)[..., :3].transpose(2, 0, 1).copy())
    assert any(torch.equal(image, opaque) for image in found)


def test_of_an_animation_the_first_frame_is_read_and_counted(tmp_path):
    frames = [Image.fromarray(noise(i, 4, 4)) for i in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    write_files(tmp_path, {"b.png": png(noise(5, 4, 4))})
    folder = Folder(tmp_path)
    assert folder.report.endswith("; 1 animated (first frame read)")
    assert together(folder) == sorted(noise(i, 4, 4).ravel().tolist() for i in (0, 5))


def test_a_photograph_with_broken_exif_data_is_no_corrupt_photograph(tmp_path, monkeypatch):
    def fail(image):
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr("data.picture.ImageOps.exif_transpose", fail)
    write_files(tmp_path, {f"{i}.png": png(noise(i, 8, 6)) for i in range(2)})
    folder = Folder(tmp_path)
    assert together(folder) == sorted(noise(i, 8, 6).ravel().tolist() for i in range(2))
    assert folder.report.endswith("; 2 with unreadable EXIF data (read as stored)")


# Stacks of arrays


def npz(*arrays, save=np.savez, **named):
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("place", ["root", "folder", "zip"])
def test_npz_of_images_with_labels_where_asked(save, place, tmp_path):
    pictures, labels = noise(0, 9, 4, 6, 3), np.arange(9, dtype=np.int32)
    files = {"set.npz": npz(pictures, labels, save=save)}
    root = tmp_path / {"root": "set.npz", "folder": "set", "zip": "set.zip"}[place]
    if place == "zip":
        write_zip(root, files)
    else:
        write_files(tmp_path if place == "root" else root, files)
    folder = Folder(root)
    assert folder.train_labels is None and folder.shape == (3, 4, 6)
    assert "no labels read; there are data.labels=arr_1" in folder.report
    expected = [picture.transpose(2, 0, 1).ravel().tolist() for picture in pictures]
    assert together(folder) == sorted(expected)
    assert together(Folder(root, labels="arr_1")) == sorted(zip(expected, range(9), strict=True))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (None, (5, 6)),
        *((n, s) for n in (None, 1, 4) for s in [(3, 5, 6), (1, 5, 6), (5, 6, 3), (5, 6, 1)]),
    ],
)
def test_npy_of_one_image_or_many_channels_first_or_last(order, shape, count, tmp_path):
    array = noise(0, *shape) if count is None else noise(0, count, *shape)
    content = npy(np.array(array, order=order))
    write_files(tmp_path, {"a.npy": content, "b.npy": content})
    found = Folder(tmp_path)
    rows = array[None] if count is None else array
    if len(shape) == 2:
        rows = rows[:, None]
    elif shape[-1] in (1, 3):
        rows = rows.transpose(0, 3, 1, 2)
    assert found.shape == rows.shape[1:]
    assert together(found) == sorted(2 * [row.ravel().tolist() for row in rows])


def test_stack_of_a_split_and_a_size(tmp_path):
    files = {"train.npz": npz(noise(0, 5, 6, 4, 3)), "test.npz": npz(noise(1, 2, 6, 4, 3))}
    write_files(tmp_path, files)
    folder = Folder(tmp_path, size=4, channels=1)
    assert folder.train.shape == (5, 1, 4, 4) and folder.test.shape == (2, 1, 4, 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", npy(noise(0, 4, 4).astype(np.uint16)), r"holds uint16 \(4, 4\), expected one"),
        ("a.npy", npy(noise(0, 4, 4, 4)), r"holds uint8 \(4, 4, 4\), expected one uint8 image"),
        ("a.npy", npy(noise(0, 0, 4, 4, 3)), r"holds uint8 \(0, 4, 4, 3\), expected one"),
        ("a.npy", npy(noise(0, 3, 4, 4, 3))[:-1], "a complete array .1 of its bytes are missing"),
        ("a.npy", b"", "a.npy is corrupt, truncated or not what its name says"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': ((((((", "a.npy is corrupt, truncated"),
        ("a.npz", npz(mu=noise(0, 4), sigma=noise(0, 4)), r"the arrays mu, sigma, expected its im"),
        ("a.npz", npz(noise(0, 4, 4, 3) / 255), r"holds float64 \(4, 4, 3\), expected one"),
        ("a.npz", npz(noise(0, 9, 4, 4, 3))[:-40], "a.npz is corrupt, truncated or encrypted"),
        ("a.npz", b"", "a.npz is corrupt, truncated or encrypted"),
    ],
)
def test_unusable_stack_is_named(name, content, message, tmp_path):
    write_files(tmp_path / "set", {name: content, "b.npy": npy(noise(0, 4, 4))})
    for root in (tmp_path / "set", tmp_path / "set" / name):
        with pytest.raises(ValueError, match=message):
            Folder(root)


def test_object_arrays_in_stacks_are_not_unpickled(tmp_path):
    attack = np.empty(1, object)
    attack[0] = Call(__import__("os").mkdir, str(tmp_path / "mark"))
    write_files(tmp_path, {"a.npz": npz(attack), "b.npz": npz(noise(0, 2, 4, 4, 3), attack)})
    with pytest.raises(ValueError, match="holds Python objects, which are not unpickled"):
        Folder(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="holds Python objects"):
        Folder(tmp_path / "b.npz", labels="arr_1")
    assert not (tmp_path / "mark").exists()


def test_images_of_a_stack_are_read_one_by_one(tmp_path, monkeypatch):
    """No array of all images is made next to the tensor that they go to."""
    write_files(
        tmp_path, {"a.npz": npz(noise(0, 50, 16, 16, 3)), "b.npy": npy(noise(1, 9, 16, 16, 3))}
    )
    sizes = []
    monkeypatch.setattr("data.stack._exactly", lambda stream, n: sizes.append(n) or stream.read(n))
    assert len(Folder(tmp_path).train) == 53
    assert sizes == [16 * 16 * 3] * 59


# Tables


def parquet(pictures, struct_column=True, row_group_size=5, **columns):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    from pyarrow import parquet as format

    if struct_column:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        rows = [picture and {"bytes": picture, "path": "x.png"} for picture in pictures]
        image = pa.array(rows, kind)
    else:
        image = pa.array(pictures, pa.binary())
    table = pa.table({"image": image, **columns})
    stream = io.BytesIO()
    format.write_table(table, stream, row_group_size=row_group_size)
    return stream.getvalue()


@pytest.mark.parametrize("struct_column", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_parquet_as_hugging_face_ships_it(struct_column, packed, tmp_path):
    pictures = noise(0, 40, 4, 6, 3)
    content = [
        parquet(
            [png(p) for p in part],
            struct_column,
            label=list(range(len(part))),
            name=["x"] * len(part),
        )
        for part in (pictures[:20], pictures[20:35], pictures[35:])
    ]
    names = ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")
    files = {f"data/{name}.parquet": one for name, one in zip(names, content, strict=True)}
    files |= {"README.md": b""}
    root = tmp_path / ("set.zip" if packed else "set")
    (write_zip if packed else write_files)(root, files)
    folder = Folder(root)
    assert len(folder.train) == 35 and len(folder.test) == 5 and folder.train_labels is None
    assert "no labels read; there are data.labels=label" in folder.report
    labelled = Folder(root, labels="label")
    expected = [picture.transpose(2, 0, 1).ravel().tolist() for picture in pictures]
    labels = [*range(20), *range(15), *range(5)]
    assert together(labelled) == sorted(zip(expected, labels, strict=True))
    assert sorted(images(folder)[: len(folder.train)].flatten(1).tolist()) == sorted(expected[:35])


def test_one_parquet_file_is_a_root(tmp_path):
    (tmp_path / "set.parquet").write_bytes(parquet([png(noise(i, 4, 4)) for i in range(6)]))
    assert len(Folder(tmp_path / "set.parquet").train) == 5


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda good: good[:-20], {}, r"a\.parquet is corrupt, truncated or not what its name"),
        (lambda good: b"", {}, r"a\.parquet is corrupt, truncated or not what its name"),
        (lambda good: good[:8] + b"\xff" * 60 + good[68:], {}, r"a\.parquet"),
        (lambda good: parquet([png(noise(0, 4, 4)), None]), {}, "row 1 holds no bytes in the col"),
        (lambda good: parquet([png(noise(0, 4, 4)), b"GIF8"]), {}, "row 1 is corrupt, truncated"),
        (lambda good: parquet([b"x"], img=[b"y"], struct_column=False), {}, "row 0 is corrupt"),
        (
            lambda good: good,
            {"labels": "size"},
            "has no labels 'size'; allowed are null, .*, label",
        ),
        (lambda good: parquet([b"x"], label=[-1]), {"labels": "label"}, "integers ≥ 0, got -1"),
        (
            lambda good: parquet([b"x", b"x"], label=[1, None]),
            {"labels": "label"},
            "1 rows without",
        ),
    ],
)
def test_unusable_parquet_is_named(change, settings, message, tmp_path):
    good = parquet([png(noise(i, 4, 4)) for i in range(4)], label=[1, 2, 3, 4])
    (tmp_path / "a.parquet").write_bytes(change(good))
    with pytest.raises(ValueError, match=message):
        Folder(tmp_path / "a.parquet", **settings)


def test_parquet_without_a_column_of_images_is_named(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    from pyarrow import parquet as format

    for columns, message in (
        ({"text": ["a"]}, r"has 0 columns of encoded images, .* it holds text \(string\)"),
        ({"left": [b"a"], "right": [b"a"]}, r"has 2 columns .* left \(binary\), right"),
    ):
        format.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=message):
            Folder(tmp_path)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.parquet": b"PAR1"})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'a\.parquet .*pip install "score-sde-toolkit\[parquet'):
        Folder(tmp_path)


# Other spellings of MNIST and CIFAR-10


@pytest.mark.parametrize("below", ["raw", "MNIST/raw"])
def test_mnist_where_torchvision_keeps_it(below, tmp_path):
    (tmp_path / below).mkdir(parents=True)
    parts = write_mnist(tmp_path / below, zipped=False)
    assert torch.equal(MNIST(tmp_path, pad=1).train[..., 1:-1, 1:-1], parts["train"][0])
    assert MNIST(tmp_path).report.endswith("12 for training, 5 for test")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_by_names_with_a_dot(zipped, nested, tmp_path):
    parts = write_mnist(tmp_path, zipped)
    for path in list(tmp_path.iterdir()):
        name = path.name.replace("-idx", ".idx")
        path.rename(tmp_path / "moved")
        if nested:
            (tmp_path / name.removesuffix(".gz")).mkdir()
            name = f"{name.removesuffix('.gz')}/{name}"
        (tmp_path / "moved").rename(tmp_path / name)
    mnist = MNIST(tmp_path)
    assert torch.equal(mnist.train, parts["train"][0])
    assert torch.equal(mnist.test_labels, parts["t10k"][1])


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_header_asks_for_no_memory_that_the_file_cannot_fill(zipped, tmp_path):
    write_mnist(tmp_path, zipped)
    content = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**31, 2**15, 2**15) + b"\0" * 100
    path = tmp_path / ("train-images-idx3-ubyte" + ".gz" * zipped)
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(ValueError, match=r"corrupt or truncated: its header says .* got 116"):
        MNIST(tmp_path)
    path.write_bytes(idx(noise(0, 12, 28, 28)) if not zipped else b"")
    if zipped:
        with pytest.raises(ValueError, match="expected an IDX file, got 0 bytes"):
            MNIST(tmp_path)
    else:
        assert len(MNIST(tmp_path).train) == 12


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("labels", [list, np.asarray, lambda labels: list(np.asarray(labels))])
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_cifar10_pickled_by_python3_in_every_protocol(protocol, labels, core, tmp_path):
    parts = write_cifar(tmp_path, "python3")
    folder = tmp_path / "cifar-10-batches-py"
    for i, (pixels, numbers) in enumerate(parts):
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        order = np.asfortranarray(pixels) if i == 2 else pixels
        batch = {"data": order, b"labels": labels(numbers.tolist()), "filenames": ["x"] * 4}
        content = pickle.dumps(batch, protocol=protocol)
        if core == "numpy.core" and protocol < 4:  # where lengths of names are not written
            content = content.replace(b"numpy._core", b"numpy.core")
        (folder / name).write_bytes(content)
    pixels = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts]))
    for root in (tmp_path, folder):
        cifar = CIFAR10(root)
        assert torch.equal(torch.cat([cifar.train, cifar.test]).flatten(1), pixels)
        assert cifar.test_labels.tolist() == parts[5][1].tolist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["{}", "{}.gz"])
def test_cifar10_from_unzipped_archives_and_its_own_folder(form, name, tmp_path):
    parts = write_cifar(tmp_path, form)
    folder, archive, _, _ = FORMS[form]
    expected = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts[:5]]))
    assert torch.equal(CIFAR10(tmp_path / folder).train.flatten(1), expected)
    packed = tmp_path / "packed"
    packed.mkdir()
    path = packed / name.format(archive.removesuffix(".gz"))
    with tarfile.open(path, "w:") as tar:  # as browsers leave it, whatever its name
        tar.add(tmp_path / folder, folder)
    for root in (packed, path):
        assert torch.equal(CIFAR10(root).train.flatten(1), expected)


@pytest.mark.parametrize("codec", ["rot13", "utf-7", "zlib_codec"])
def test_pickled_bytes_know_no_other_encoding(codec, tmp_path):
    write_cifar(tmp_path, "python3")
    attack = b"c_codecs\nencode\n(VABC\nV" + codec.encode() + b"\ntR."
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(attack)
    with pytest.raises(ValueError, match=f"asks for the encoding '{codec}', which was refused"):
        CIFAR10(tmp_path)


# Roots that are no sets


def archived(kind):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{kind}") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.tar", archived(""), "is a tar archive, which is not read; unpack it and set data.r"),
        ("set.tar.gz", archived("gz"), "is a tar archive, which is not read"),
        ("set.zip", archived("xz"), "is a tar archive, which is not read"),
        ("one.png", png(noise(0, 4, 4)), "is a single PNG image; set data.root to the directory"),
        ("one.jpg", encoded(noise(0, 4, 4), "jpeg"), "is a single JPEG image"),
        ("one", encoded(noise(0, 4, 4), "webp"), "is a single WebP image"),
        ("empty", b"", r"is a file that is empty \(0 bytes\), expected a directory, a zip"),
        ("page", b"<html>", "begins with the bytes 3c 68 74 6d 6c 3e, expected a directory"),
        ("set.zip", b"", "corrupt, truncated or encrypted: .*it is empty"),
    ],
)
def test_a_root_that_is_no_set_is_called_what_it_is(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Folder(tmp_path / name)
    assert "download it again" not in str(caught.value) or name == "set.zip"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.npy", "a.webp"])
@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_no_message_shows_an_object(name, content, tmp_path):
    write_files(tmp_path, {name: content, "b.png": png(noise(0, 4, 4))})
    with pytest.raises(ValueError, match=rf"{name} is (empty \(0 bytes\)|corrupt)") as caught:
        Folder(tmp_path)
    assert " object at 0x" not in str(caught.value)
    assert content == b"" or "6e 6f 20 69" in str(caught.value) or name == "a.npy"
