"""Files of images: their depth of colour, stacks of arrays, and roots that are refused."""

import io
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from scoresde.data import MNIST, Folder
from tests.data.test_data import noise
from tests.data.test_readers import (
    Call,
    npy,
    png,
    together,
    write_files,
    write_zip,
)


def chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def raw_png(width, rows, depth, colour, palette=None):
    """A PNG of any depth and colour type, written byte by byte; rows are packed bytes."""
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
    """Pillow alone would return the high bytes and turn the values 0 to 4095 into 16 levels."""
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

    monkeypatch.setattr("scoresde.data.picture.Image.Image.getexif", fail)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 1
    for i in range(2):
        Image.fromarray(noise(i, 8, 6)).save(tmp_path / f"{i}.png", exif=exif)
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


# The channels are the last axis if the first and the last could be.
SHAPES = [(3, 5, 6), (1, 5, 6), (5, 6, 3), (5, 6, 1), (3, 5, 3), (1, 5, 3)]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (None, (5, 6)),
        *((n, s) for n in (None, 1, 4) for s in SHAPES),
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
    """The tensor of all images is their only copy in memory."""
    write_files(
        tmp_path, {"a.npz": npz(noise(0, 50, 16, 16, 3)), "b.npy": npy(noise(1, 9, 16, 16, 3))}
    )
    sizes = []
    monkeypatch.setattr(
        "scoresde.data.stack._exactly", lambda stream, n: sizes.append(n) or stream.read(n)
    )
    assert len(Folder(tmp_path).train) == 53
    assert sizes == [16 * 16 * 3] * 59


# Roots that are refused


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
    # An archive contains its time of creation, and parametrize ids must be equal in every process.
    ids=lambda value: "content" if isinstance(value, bytes) else None,
)
def test_a_root_that_is_no_set_is_called_what_it_is(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Folder(tmp_path / name)
    assert "download it again" not in str(caught.value) or name == "set.zip"


@pytest.mark.parametrize(
    ("flags", "method", "message"),
    [(1, 0, "is encrypted, expected a zip without"), (0, 99, "is packed by a method that Python")],
)
def test_whole_zips_that_cannot_be_read_are_not_called_corrupt(flags, method, message, tmp_path):
    path = tmp_path / "set.zip"
    write_zip(path, {f"{i}.png": png(noise(i, 4, 4)) for i in range(2)})
    content = bytearray(path.read_bytes())
    local, central = content.index(b"PK\3\4"), content.index(b"PK\1\2")
    content[local + 6 : local + 10] = struct.pack("<HH", flags, method)
    content[central + 8 : central + 12] = struct.pack("<HH", flags, method)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"0.png {message}") as caught:
        Folder(path)
    assert "corrupt" not in str(caught.value) and "<" not in str(caught.value)


@pytest.mark.parametrize("kind", ["gif", "tiff"])
def test_an_image_of_another_kind_is_named(kind, tmp_path):
    write_files(tmp_path, {"a.png": encoded(noise(0, 4, 4), kind)})
    with pytest.raises(ValueError, match=f"a.png is .* not what its name.*it is a {kind.upper()}"):
        Folder(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "8"}, "size must be an integer ≥ 1 or null, got '8'"),
        ({"size": 2.5}, r"size must be an integer ≥ 1 or null, got 2\.5"),
        ({"size": True}, "size must be an integer ≥ 1 or null, got True"),
        ({"test_fraction": "a"}, r"test_fraction must be in \(0, 1\), got 'a'"),
    ],
)
def test_settings_of_a_wrong_type_are_named(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Folder(tmp_path, **settings)
    with pytest.raises(ValueError, match=r"pad must be an integer ≥ 0, got 1\.5"):
        MNIST(tmp_path, pad=1.5)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.npy", "a.webp"])
@pytest.mark.parametrize("content", [b"", b"no image at all"])
def test_no_message_shows_an_object(name, content, tmp_path):
    write_files(tmp_path, {name: content, "b.png": png(noise(0, 4, 4))})
    with pytest.raises(ValueError, match=rf"{name} is (empty \(0 bytes\)|corrupt)") as caught:
        Folder(tmp_path)
    assert " object at 0x" not in str(caught.value)
    assert content == b"" or "6e 6f 20 69" in str(caught.value) or name == "a.npy"
