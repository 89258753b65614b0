"""Names of tensors without the prefixes of wrappers.

`DataParallel` and `DistributedDataParallel` name each tensor of a network `module.…`,
`torch.compile` names it `_orig_mod.…`, and trainers with a network as an attribute `model.…`;
nested wrappers add several prefixes. A prefix counts as a wrapper's only if all names have it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from torch import nn
from torch.nn.parallel import DistributedDataParallel

WRAPPERS = ("module", "_orig_mod", "model")
Value = TypeVar("Value")


def bare(names: Iterable[str], separator: str = ".") -> list[str]:
    """The names, in the same order, without the wrappers' prefixes that all of them share."""
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
    """A state dict with the names of a network, where they differ by wrappers alone.

    A network may have a `module` or a `model` of its own, whose names stay. Tensors that do not
    fit keep a name with which they can be reported.

    Args:
        state: Values by the names of a file.
        wanted: Names of the network, which may be wrapped too.
    """
    own = list(wanted)
    known = dict(zip(_within(own), own, strict=True))
    names = _within(state)
    return {known.get(name, name): one for name, one in zip(names, state.values(), strict=True)}


def inner(module: Any) -> Any:
    """The network within `torch.compile` and the wrappers that split a batch among devices."""
    while True:
        if hasattr(module, "_orig_mod"):
            module = module._orig_mod
        elif isinstance(module, nn.DataParallel | DistributedDataParallel):
            module = module.module
        else:
            return module


def _within(names: Iterable[str]) -> list[str]:
    """Bare names, also for a network that was wrapped inside its model: `net.module.…`."""
    outer = bare(names)
    heads = {name.partition(".")[0] for name in outer}
    if len(heads) != 1:
        return outer
    head = f"{heads.pop()}."
    return [head + name for name in bare(name.removeprefix(head) for name in outer)]
