"""Which data a training had: their number and their content, not the folder they lay in."""

from typing import Any

from scoresde.data import Dataset


def data_identity(data: Dataset) -> dict[str, Any]:
    """What tells data from others, as plain values: the size of each part, and a digest of all."""
    return {"train": len(data.train), "test": len(data.test), "digest": data.digest}


def data_difference(saved: dict[str, Any] | None, data: Dataset) -> str | None:
    """How the data differ from those of a checkpoint, or None; old ones do not say theirs."""
    if saved is None:
        return None
    now = data_identity(data)
    if saved["digest"] == now["digest"]:
        return None
    was, wanted = (f"{one['train']} + {one['test']}" for one in (saved, now))
    if was == wanted:
        return f"the run had other data: {was} samples (train + test), as now, of another content"
    return f"the run had other data: {was} samples (train + test) then, {wanted} now"
