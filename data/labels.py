"""Labels of images: the folders that they lie in, or a dataset.json as EDM writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import File
from .listing import LABEL_FILE

# FFHQ and EDM deal images out to 00000, 01000, … so that no folder grows too large.
_CHUNK = re.compile(r"\d{4,}")
_SHARD = re.compile(r".*\.tar")  # and WebDataset to tars


def classes_of(folders: Sequence[str], numbered: bool = False) -> list[str]:
    """The class of each image by its folder: the folder's path without its chunks.

    Args:
        folders: of the images, "" for the topmost.
        numbered: folders named by four or more digits are classes as well, and no chunks.

    Returns:
        The class's name, "" where an image lies in no class's folder.
    """
    chunks = (_SHARD,) if numbered else (_SHARD, _CHUNK)
    known = {
        folder: "/".join(
            part for part in folder.split("/") if not any(chunk.fullmatch(part) for chunk in chunks)
        )
        for folder in set(folders)
    }
    return [known[folder] for folder in folders]


def label_folders(
    folders: Sequence[str], names: Sequence[str], numbered: bool
) -> tuple[list[int], list[str]]:
    """Number the classes that the folders of images are, in the order of their names.

    Raises:
        ValueError: An image lies in no class's folder, or there is one class alone.
    """
    classes = classes_of(folders, numbered)
    chunks = next((f for f in folders if any(map(_CHUNK.fullmatch, f.split("/")))), None)
    outside = [name for name, own in zip(names, classes, strict=True) if not own]
    if outside and chunks is not None and not any(classes):
        raise ValueError(
            f"data.labels=folders finds no class: folders named by four or more digits ({chunks}) "
            "are taken for chunks of one set; use data.labels=null, or "
            "data.labels=numbered_folders if they are classes"
        )
    if outside and any(classes):
        raise ValueError(
            f"data.labels=folders, but {len(outside)} images lie in no class's folder "
            f"({outside[0]}); move them, or use data.labels=null"
        )
    found = sorted(set(classes))
    if len(found) < 2:
        raise ValueError(
            f"data.labels=folders needs at least 2 class folders, got {found if any(found) else 0}"
            "; use data.labels=null"
        )
    number = {name: i for i, name in enumerate(found)}
    return [number[name] for name in classes], found


def read_label_file(file: File) -> dict[str, int] | None:
    """Labels by the name of the image, from {"labels": [["00000/img00000000.png", 3], …]}.

    Returns:
        None where the file says that there are none.

    Raises:
        ValueError: The file is not of that form.
    """
    try:
        pairs: Any = json.loads(file.read())["labels"]
        if not pairs:
            return None
        labels = {str(name).replace("\\", "/"): label for name, label in dict(pairs).items()}
        wrong = [
            label for label in labels.values() if type(label) is not int or not 0 <= label < 2**63
        ]
        if wrong:
            raise ValueError(f"it holds the label {wrong[0]!r}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f'{file.source} is not {{"labels": [["FOLDER/IMAGE.png", 3], …]}} with integers ≥ 0 '
            f"({type(error).__name__}: {error}); mend it, or use data.labels=null"
        ) from error
    return labels


def labels_beside(file: File) -> dict[str, int | str]:
    """What a file next to an image says of it: `cls` of a .cls, or the entries of a .json.

    A label is an integer ≥ 0, or the name of a class; other entries are none.

    Raises:
        ValueError: The file is no text of that kind.
    """
    try:
        text = file.read().decode()
        if file.suffix == ".cls":
            return {"cls": _label(text.strip())}
        entries: Any = json.loads(text)
        if not isinstance(entries, dict):
            raise ValueError("it is no table of names and values")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file.source} is no label, expected an integer or a class (.cls), or "
            f'{{"label": 3}} (.json) ({error}); mend it, or use data.labels=null'
        ) from error
    known = {str(name): value for name, value in entries.items() if type(value) in (int, str)}
    return {name: value for name, value in known.items() if value != ""}


def _label(text: str) -> int | str:
    if not text:
        raise ValueError("it is empty")
    return int(text) if re.fullmatch(r"-?\d{1,18}", text, re.ASCII) else text


def number_classes(values: NDArray[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """Labels as numbers; where they are names of classes, in the order of these.

    Returns:
        The numbers, and the names, none where the labels are numbers.
    """
    if values.dtype.kind != "U":
        return values.astype(np.int64), []
    classes, numbers = np.unique(values, return_inverse=True)
    return numbers.astype(np.int64), classes.tolist()


def label_listed(files: Mapping[str, File], names: Sequence[str]) -> tuple[list[int], int]:
    """The label that the dataset.json in the nearest folder above gives to each image.

    Args:
        files: the dataset.json files by their names below the root; in each, the names of images
            are relative to its folder.
        names: of the images below the root.

    Returns:
        The labels, and how many listed images are not there.

    Raises:
        ValueError: There is no such file, it has no labels, or none for one of the images.
    """
    tables = {}
    for name, file in files.items():
        table = read_label_file(file)
        if table is None:
            raise ValueError(
                f'{file.source} has no labels ("labels" is null or empty); use data.labels=null'
            )
        tables[name.removesuffix(LABEL_FILE)] = table
    nearest = sorted(tables, key=len, reverse=True)
    labels = []
    for name in names:
        prefix = next((prefix for prefix in nearest if name.startswith(prefix)), None)
        own = None if prefix is None else name.removeprefix(prefix)
        if prefix is None or own not in tables[prefix]:
            where = "no dataset.json" if prefix is None else files[f"{prefix}{LABEL_FILE}"].source
            raise ValueError(
                f"data.labels=dataset.json, but {where} has a label for the image {own or name}; "
                "add it, or use data.labels=null"
                if prefix is None
                else f"{where} has no label for the image {own}; add it, or use data.labels=null"
            )
        labels.append(tables[prefix][own])
    return labels, sum(map(len, tables.values())) - len(names)
