"""Parquet files of encoded images, the format of Hugging Face's data sets."""

import io
import sys

import pytest

from scoresde.data import Folder
from tests.data.test_data import noise
from tests.data.test_readers import png, together, write_files, write_zip


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
    assert sorted(folder.train.flatten(1).tolist()) == sorted(expected[:35])


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
