"""Files of tensors and of settings: read without running code, and written whole or not at all."""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from .plain_yaml import read_yaml
from .stand_ins import load_among_settings


def load_tensors(path: Path) -> Any:
    """The contents of a PyTorch or safetensors file on the CPU: tensors and plain values only.

    Settings that a trainer stores next to its weights are left out (`stand_ins`). Where the format
    allows it, tensors share memory with the file; copy those that outlive it.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is a folder")
    if path.suffix == ".safetensors" or _begins_as_safetensors(path):
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged or no safetensors ({error})") from error
    zipped = zipfile.is_zipfile(path)
    options: dict[str, Any] = {"map_location": "cpu", "mmap": zipped or None}
    try:
        return torch.load(path, weights_only=True, **options)
    except Exception as error:  # damaged files raise errors of many types
        if zipped:
            with suppress(Exception):
                return load_among_settings(path, **options)
        first = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as tensors and plain values ({path.stat().st_size} bytes; "
            f"{first[:160]}); it is damaged, foreign, or holds code, which is never run"
        ) from error


def _begins_as_safetensors(path: Path) -> bool:
    """Whether a file of any name begins with the length of a header and its brace."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of a JSON or YAML file, including YAML of ml_collections.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, has another ending, or is no mapping.
    """
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise ValueError(f"a configuration is a mapping, a .json or a .yaml, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        text = path.read_bytes().decode("utf-8")
        found = json.loads(text) if path.suffix == ".json" else read_yaml(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        sentence = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged or no {path.suffix[1:]} ({sentence})") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} has no fields")
    return {str(name): value for name, value in found.items()}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file in the folder of `path`, which replaces it at the end of the context.

    The folder is created if necessary. An error leaves no file behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
