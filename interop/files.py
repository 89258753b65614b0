"""Files of other projects: opened without running anything, and without a second copy."""

import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from .plain_yaml import read_yaml
from .stand_ins import load_among_settings


def load_tensors(path: Path) -> Any:
    """What a file of torch or safetensors holds, on the CPU: tensors and plain values only.

    Settings that a trainer keeps next to its weights are left out (`stand_ins`).

    Tensors share memory with the file, where its format allows: copy what is to outlive it.

    Raises:
        FileNotFoundError: There is no such file.
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
    except Exception as error:  # damage shows as errors of any kind, and none of them is ours
        if zipped:
            with suppress(Exception):
                return load_among_settings(path, **options)
        first = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as tensors and plain values ({path.stat().st_size} bytes; "
            f"{first[:160]}); it is damaged, foreign, or holds code, which is never run"
        ) from error


def _begins_as_safetensors(path: Path) -> bool:
    """Whether a file begins with the length of a header and its brace, whatever it is called."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of a JSON or YAML file, of ml_collections' YAML as well.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, of another kind, or has no fields.
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
