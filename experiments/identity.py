"""The identity of training data: their number and content, whatever their folder."""

from typing import Any

from scoresde.data import Dataset


def data_identity(data: Dataset) -> dict[str, Any]:
    """The size of each part and a digest of all, as plain values."""
    return {"train": len(data.train), "test": len(data.test), "digest": data.digest}


def data_difference(saved: dict[str, Any] | None, data: Dataset) -> str | None:
    """How the data differ from those of a checkpoint, or None; old checkpoints do not name them."""
    if saved is None:
        return None
    now = data_identity(data)
    if saved["digest"] == now["digest"]:
        return None
    was, wanted = (f"{one['train']} + {one['test']}" for one in (saved, now))
    if was == wanted:
        return f"the run had other data: {was} samples (train + test), as now, of another content"
    return f"the run had other data: {was} samples (train + test) then, {wanted} now"
