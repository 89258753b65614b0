"""Settings of runs compared, where one of them may be from a time that did not name them all."""

from collections.abc import Callable
from typing import Any


def differences(
    old: Any, new: Any, matters: Callable[[str], bool] = lambda key: True
) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ, with both; what one does not name yet is off.

    Args:
        old: Settings, nested dicts and lists.
        new: Settings to compare them with.
        matters: Which dotted keys are compared.
    """
    was, now = flat(old), flat(new)
    pairs = {key: (was.get(key), now.get(key)) for key in sorted(was | now) if matters(key)}
    return {key: (a, b) for key, (a, b) in pairs.items() if (a or None) != (b or None)}


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a tree of dicts and lists; a plain value has the key of the tree itself."""
    if not isinstance(tree, dict | list):
        return {prefix.rstrip("."): tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves |= flat(value, f"{prefix}{key}.")
    return leaves
