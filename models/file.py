"""The file of a model: weights as safetensors, and a JSON that describes them.

A model is a folder of two files, which can be read without this toolkit and without running code:

    model.safetensors   the tensors, by their names in `ScoreModel.state_dict()`
    model.json          {"format": "score-sde-model", "version": 1, "step": 100000,
                         "model": {"sde": …, "net": …, "parameterization": …, "data_range": …, …}}

The weights contain the digest of their JSON, so that files of two models are not mixed unnoticed.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT, VERSION = "score-sde-model", 1
WEIGHTS, DOCUMENT = "model.safetensors", "model.json"


def write(
    folder: Path,
    description: dict[str, Any],
    state: dict[str, Tensor],
    step: int | None,
    overwrite: bool,
) -> Path:
    """Write both files, each whole or not at all, and return the folder.

    Raises:
        FileExistsError: The folder holds a model, and overwrite is false.
    """
    if not overwrite and any((folder / name).exists() for name in (WEIGHTS, DOCUMENT)):
        raise FileExistsError(
            f"{folder} already holds a model; use another folder, or overwrite=True in Python"
        )
    document = {"format": FORMAT, "version": VERSION, "step": step, "model": description}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    temporary = [folder / f".{name}.{os.getpid()}.tmp" for name in (WEIGHTS, DOCUMENT)]
    try:
        tensors = {name: value.detach().contiguous().cpu() for name, value in state.items()}
        save_file(tensors, temporary[0], metadata={"format": "pt", "document": _digest(text)})
        temporary[1].write_text(text, encoding="utf-8")
        for path in temporary:
            with open(path, "rb") as raw:
                os.fsync(raw.fileno())
        os.replace(temporary[0], folder / WEIGHTS)
        os.replace(temporary[1], folder / DOCUMENT)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    return folder


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The document, and the tensors on the CPU.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: The model is damaged, of another format, or of a newer version.
    """
    for name in (DOCUMENT, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no model: it has no {name}")
    text = (folder / DOCUMENT).read_bytes().decode("utf-8", errors="replace")
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{folder / DOCUMENT} is damaged or no JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{folder / DOCUMENT} does not describe a model of this toolkit")
    if document.get("version") != VERSION:
        raise ValueError(
            f"{folder} has version {document.get('version')}, this toolkit reads {VERSION}; "
            "update the toolkit"
        )
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as weights:
            belongs = (weights.metadata() or {}).get("document")
            # Copies, since mapped tensors would change or vanish with the file.
            names = weights.keys()
            state = {name: weights.get_tensor(name).clone() for name in names}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged or no safetensors ({error})") from error
    model = document.get("model")
    kinds: dict[str, Any] = {"sde": dict, "net": (dict, type(None)), "parameterization": str}
    if not isinstance(model, dict) or "step" not in document:
        raise ValueError(f"{folder / DOCUMENT} lacks the model or its step")
    for name, kind in kinds.items():
        if name not in model or not isinstance(model[name], kind):
            raise ValueError(f"{folder / DOCUMENT} does not say the {name} of its model")
    if belongs != _digest(text):
        raise ValueError(
            f"{folder / WEIGHTS} was not written with the {DOCUMENT} next to it; "
            "one was changed or replaced"
        )
    return document, state


@contextmanager
def whole(source: object) -> Iterator[None]:
    """Turn errors that wrong values in a file cause into one sentence that names the file."""
    try:
        yield
    except (
        *(ValueError, TypeError, KeyError, IndexError, AttributeError),
        *(RuntimeError, ArithmeticError, RecursionError),
    ) as error:
        if isinstance(error, ValueError) and str(source) in str(error):  # already named
            raise
        sentence = " ".join(str(error).split())
        raise ValueError(f"{source} cannot be loaded: {sentence[:400]}") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
