"""MNIST and CIFAR-10 in the places and spellings that are common."""

import gzip
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch

from scoresde.data import CIFAR10, MNIST
from tests.data.test_data import noise
from tests.data.test_readers import FORMS, idx, write_cifar, write_mnist


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
@pytest.mark.parametrize(
    "labels",
    [
        list,
        np.asarray,
        lambda labels: np.array(labels, ">i4"),
        lambda labels: list(np.asarray(labels)),
    ],
)
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_cifar10_pickled_by_python3_in_every_protocol(protocol, labels, core, tmp_path):
    parts = write_cifar(tmp_path, "python3")
    folder = tmp_path / "cifar-10-batches-py"
    for i, (pixels, numbers) in enumerate(parts):
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        order = np.asfortranarray(pixels) if i == 2 else pixels
        batch = {"data": order, b"labels": labels(numbers.tolist()), "filenames": ["x"] * 4}
        content = pickle.dumps(batch, protocol=protocol)
        if core == "numpy.core" and protocol < 4:  # their names have no written length
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
    with tarfile.open(path, "w:") as tar:  # a browser that decompresses a file keeps its name
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
