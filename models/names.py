"""Names of tensors without what wrappers put in front of them.

`DataParallel` and `DistributedDataParallel` name each tensor of a network `module.…`,
`torch.compile` names it `_orig_mod.…`, and trainers that hold a network as an attribute `model.…`;
wrappers of wrappers have several of these. A prefix counts as a wrapper's only where every name has
it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

WRAPPERS = ("module", "_orig_mod", "model")
Value = TypeVar("Value")


def bare(names: Iterable[str], separator: str = ".") -> list[str]:
    """The names without the wrappers' prefixes that all of them have, in the same order."""
    found = list(names)
    prefixes = [wrapper + separator for wrapper in WRAPPERS]
    while found:
        shared = [p for p in prefixes if all(name.startswith(p) for name in found)]
        if not shared:
            break
        found = [name.removeprefix(shared[0]) for name in found]
    return found


def unwrapped(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state dict by its bare names."""
    return dict(zip(bare(state), state.values(), strict=True))


def fitted(state: Mapping[str, Value], wanted: Iterable[str]) -> dict[str, Value]:
    """A state dict by the names that a network has, wherever only wrappers tell them apart.

    Names that are the network's already stay, so that a network may have a `module` or a `model` of
    its own. What does not fit keeps a name by which it can be reported.

    Args:
        state: Values by the names of a file.
        wanted: Names of the network, which may be wrapped itself.
    """
    own = list(wanted)
    known = dict(zip(_within(own), own, strict=True))
    names = _within(state)
    return {known.get(name, name): one for name, one in zip(names, state.values(), strict=True)}


def inner(module: Any) -> Any:
    """The network within `torch.compile` and the wrappers that share a batch among devices."""
    while True:
        if hasattr(module, "_orig_mod"):
            module = module._orig_mod
        elif isinstance(module, nn.DataParallel | DistributedDataParallel):
            module = module.module
        else:
            return module


def _within(names: Iterable[str]) -> list[str]:
    """Bare names, also of a network that was wrapped inside its model: `net.module.…`."""
    outer = bare(names)
    heads = {name.partition(".")[0] for name in outer}
    if len(heads) != 1:
        return outer
    head = f"{heads.pop()}."
    return [head + name for name in bare(name.removeprefix(head) for name in outer)]
