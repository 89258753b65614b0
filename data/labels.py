"""Labels of images: from their folders, from files next to them, or from EDM's dataset.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import File
from .listing import LABEL_FILE

# FFHQ and EDM divide images into folders 00000, 01000, … to keep each folder small,
_CHUNK = re.compile(r"\d{4,}")
_SHARD = re.compile(r".*\.tar")  # and WebDataset into tars.


def classes_of(folders: Sequence[str], numbered: bool = False) -> list[str]:
    """The class of each image: the path of its folder without chunks.

    Args:
        folders: folder of each image, "" for the root.
        numbered: folders named by four or more digits are classes, not chunks.

    Returns:
        The names of the classes, "" for an image outside all class folders.
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
    """Number the class folders of the images in the order of their names.

    Returns:
        The label of each image, and the names of the classes.

    Raises:
        ValueError: An image lies outside all class folders, or there is a single class.
    """
    classes = classes_of(folders, numbered)
    chunks = next((f for f in folders if any(map(_CHUNK.fullmatch, f.split("/")))), None)
    outside = [name for name, own in zip(names, classes, strict=True) if not own]
    if outside and chunks is not None and not any(classes):
        raise ValueError(
            f"data.labels=folders finds no class: folders named by four or more digits ({chunks}) "
            "count as chunks of one set; use data.labels=null, or "
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
        None if the file lists no labels.

    Raises:
        ValueError: The file has another form.
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
            f"({type(error).__name__}: {error}); correct it, or use data.labels=null"
        ) from error
    return labels


def labels_in(file: File) -> dict[str, int | str]:
    """The labels in a file next to an image: `cls` from a .cls, or the entries of a .json.

    A label is an integer or the name of a class; entries of other types are ignored.

    Raises:
        ValueError: The file cannot be read as such a text.
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
            f'{{"label": 3}} (.json) ({error}); correct it, or use data.labels=null'
        ) from error
    known = {str(name): value for name, value in entries.items() if type(value) in (int, str)}
    return {name: value for name, value in known.items() if value != ""}


def _label(text: str) -> int | str:
    if not text:
        raise ValueError("it is empty")
    return int(text) if re.fullmatch(r"-?\d{1,18}", text, re.ASCII) else text


def number_classes(values: NDArray[Any]) -> tuple[NDArray[np.int64], list[str]]:
    """Labels as numbers; classes given by name are numbered in the order of their names.

    Returns:
        The numbers, and the names, which are empty if the labels were numbers.
    """
    if values.dtype.kind != "U":
        return values.astype(np.int64), []
    classes, numbers = np.unique(values, return_inverse=True)
    return numbers.astype(np.int64), classes.tolist()


def label_listed(files: Mapping[str, File], names: Sequence[str]) -> tuple[list[int], int]:
    """The label of each image in the dataset.json of the nearest folder above it.

    Args:
        files: the dataset.json files by their paths below the root; in each, the names of images
            are relative to its folder.
        names: paths of the images below the root.

    Returns:
        The labels, and the number of listed images that do not exist.

    Raises:
        ValueError: There is no such file, it has no labels, or it does not list one of the images.
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
        own = name.removeprefix(prefix or "")
        if prefix is None or own not in tables[prefix]:
            lacks = "data.labels=dataset.json, but no dataset.json has a label"
            if prefix is not None:
                lacks = f"{files[f'{prefix}{LABEL_FILE}'].source} has no label"
            raise ValueError(f"{lacks} for the image {own}; add it, or use data.labels=null")
        labels.append(tables[prefix][own])
    return labels, sum(map(len, tables.values())) - len(names)
