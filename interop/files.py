"""Files of tensors: opened without running anything, and without a second copy."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def load_tensors(path: Path) -> Any:
    """What a file of torch or safetensors holds, on the CPU: tensors and plain values only.

    Tensors share memory with the file, where its format allows, until they are changed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is a folder")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged or no safetensors ({error})") from error
    try:
        zipped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except Exception as error:  # damage shows as errors of any kind, and none of them is ours
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as tensors and plain values ({path.stat().st_size} bytes; "
            f"{first[:160]}); it is damaged, foreign, or holds code, which is never run"
        ) from error
