"""What `resume` asks for: a start, and which differences from the earlier run are accepted."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

ALLOW = ("data",)


@dataclass(frozen=True)
class Resumption:
    """What `resume` asks for.

    Attributes:
        start: `auto`, the path of a run or of a checkpoint, or None for a new run.
        allow: Differences that are accepted: `data`.
    """

    start: str | None
    allow: tuple[str, ...]


def resumption(cfg: DictConfig) -> Resumption:
    """Read `resume`: resume.from and resume.allow, or the start alone, as a preset may say it.

    Raises:
        ValueError: Something else than a path and known differences.
    """
    given: Any = OmegaConf.to_container(cfg, resolve=True)["resume"]  # type: ignore[index, call-overload]
    whole = given if isinstance(given, dict) else {"from": given}
    start, allow = whole.get("from"), whole.get("allow") or []
    if not isinstance(start, str | None):
        raise ValueError(f"resume must be auto or a path, got {start!r}")
    allowed = tuple(allow) if isinstance(allow, list) else (allow,)
    for name in allowed:
        if name not in ALLOW:
            raise ValueError(f"unknown resume.allow '{name}'. Available: {', '.join(ALLOW)}")
    if allowed and start is None:
        raise ValueError("resume.allow belongs to resume=auto or resume=PATH, which is not given")
    return Resumption(start, allowed)
