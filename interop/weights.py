"""The weights of a file, raw and averaged, in the containers of various trainers and wrappers.

    {"model": {…}, "ema": {"decay": …, "shadow_params": […]}, "step": …}    score-SDE
    {"ema": {…}}, {"net": {…}, "ema": {…}}                                  EDM and many scripts
    {"state_dict": {"model.…": …}, "global_step": …, "callbacks": {…}}      Lightning
    {"state_dict": {"model.…": …, "ema_model.…": …}}                        an average as a module
    {"state_dict": {…}, "current_model_state": {…}}                         its `WeightAveraging`

An average is stored by the names of the tensors, by these names without their dots, or as a list in
the order of construction. The prefixes of wrappers are removed from names (`models.names`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde.models.names import bare, unwrapped

RAW = "ema=False in Python, checkpoint_ema=false for run.py, --raw for convert.py"
# Names of the entry with the raw weights.
HOLDERS = ("state_dict", "model_state_dict", "model", "net")
# Entries of an average that are no weights of the network.
COUNTERS = {"n_averaged", "decay", "num_updates", "initted", "step", "updates"}
_AVERAGE = re.compile(
    r"(?<![a-z])ema(?![a-z])|EMA|MovingAverage|WeightAverag|averaged|averaging|"
    r"average_(model|weights|params|state)|(^|_)shadow"
)


@dataclass(frozen=True)
class Weights:
    """The tensors of a network.

    Attributes:
        raw: Raw tensors by their names; empty where there is only an average.
        average: Averaged tensors by the same names, or as a list in the order of construction, or
            None.
        decay: Decay of the average, or None.
        step: Number of training steps, or None.
    """

    raw: dict[str, Tensor]
    average: Mapping[str, Any] | Sequence[Any] | None = None
    decay: Any = None
    step: Any = None

    def chosen(self, ema: bool, trained: Sequence[str], source: object) -> dict[str, Tensor]:
        """The averaged tensors if they exist and ema is true, otherwise the raw ones.

        Args:
            ema: Whether to take the averaged tensors.
            trained: Names of the tensors of an average that is a list.
            source: Name of the file, for messages.

        Raises:
            ValueError: There is one set of weights and ema is false, or the average is that of
                other tensors.
        """
        if not ema and (self.average is None or not self.raw):
            raise one_set(source)
        if not ema or self.average is None:
            return self.raw
        return self.raw | self.averaged(trained, source)

    def averaged(self, trained: Sequence[str], source: object) -> dict[str, Tensor]:
        """The averaged tensors by name; arguments as for `chosen`.

        Raises:
            ValueError: There is no average, or it is that of other tensors.
        """
        average = self.average
        if average is None:
            raise ValueError(f"{source} has no averaged weights; use {RAW}, for the raw ones")
        values = list(average.values()) if isinstance(average, Mapping) else list(average)
        if not all(isinstance(value, Tensor) for value in values):
            raise ValueError(f"{source} has values other than tensors in its average")
        if not isinstance(average, Mapping):
            if len(values) != len(trained):
                raise ValueError(
                    f"{source} does not fit the network: it averages {len(values)} tensors, "
                    f"the network has {len(trained)}"
                )
            return dict(zip(trained, values, strict=True))
        foreign = sorted(average.keys() - self.raw.keys()) if self.raw else []
        missing = sorted(set(trained) - average.keys())
        if foreign or missing:
            raise ValueError(
                f"{source} has an average of other tensors than its raw weights "
                f"({', '.join([*foreign, *missing][:3])}); for the raw ones use {RAW}"
            )
        return dict(average)


def one_set(source: object) -> ValueError:
    """The error where raw weights are requested and there is only one set."""
    return ValueError(
        "ema=False, checkpoint_ema=false or --raw needs a checkpoint with two sets of weights; "
        f"{source} has one"
    )


def find_weights(found: Any, source: object) -> Weights:
    """The weights in the contents of a file.

    Raises:
        ValueError: There are no tensors with names.
    """
    raw, average, decay = _search(found)
    if not raw and not isinstance(average, Mapping):
        raise ValueError(f"{source} holds no weights: it has no tensors with names")
    for name, value in raw.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{source} holds {name!r}, which is no tensor; pass a state dict")
    step = next((found[key] for key in ("step", "global_step") if key in found), None)
    return Weights(raw, average, decay, step)


def tensor_names(found: Any) -> list[str]:
    """The bare names of the tensors in the contents of a file, if it holds weights."""
    raw, average, _ = _search(found)
    return list(raw) or (list(average) if isinstance(average, Mapping) else [])


def _search(found: Any) -> tuple[dict[str, Any], Any, Any]:
    """The raw weights, their average in one of its three forms, and its decay."""
    if not isinstance(found, Mapping):
        return {}, None, None
    key = next((key for key in HOLDERS if isinstance(found.get(key), Mapping)), None)
    if key is None:
        flat = found and all(isinstance(name, str) for name in found)
        tensors = flat and any(isinstance(value, Tensor) for value in found.values())
        held: Mapping[str, Any] = found if tensors else {}
    else:
        held = {str(name): value for name, value in found[key].items()}
    raw, inside = _parted(held)
    if isinstance(found.get("current_model_state"), Mapping) and key is not None:
        return unwrapped(found["current_model_state"]), raw, None
    others = [] if key is None and raw else _outside(found, key)
    for candidate in [*inside, *others]:
        average = _average(candidate, raw)
        if average is not None:
            return raw, average, candidate.get("decay")
    return raw, None, None


def _parted(held: Mapping[str, Any]) -> tuple[dict[str, Any], list[Mapping[str, Any]]]:
    """The weights of a module, and those of submodules that average them."""
    if "n_averaged" in held:  # torch's AveragedModel, which holds the average only
        return {}, [held]
    groups: dict[str, dict[str, Any]] = {}
    for name, (old, value) in zip(bare(held), held.items(), strict=True):
        head, dot, rest = name.partition(".")
        averages = dot and _AVERAGE.search(head)
        groups.setdefault(head if averages else "", {})[rest if averages else old] = value
    raw = unwrapped(groups.pop("", {}))
    return raw, list(groups.values())


def _outside(found: Mapping[str, Any], key: str | None) -> list[Mapping[str, Any]]:
    """Candidates for an average next to the weights, in a callback, or in an optimizer."""
    entries = [(str(name), value) for name, value in found.items() if name != key]
    callbacks, optimizers = found.get("callbacks"), found.get("optimizer_states")
    states = list(callbacks.items()) if isinstance(callbacks, Mapping) else []
    if isinstance(optimizers, list | tuple):
        states += [("optimizer", state) for state in optimizers]
    for owner, state in states:
        if isinstance(state, Mapping):
            entries.append((str(owner), state))
            entries += [(str(name), value) for name, value in state.items()]
    named = [value for name, value in entries if _AVERAGE.search(name)]
    listed = [one for one in named if isinstance(one, list | tuple) and _are_tensors(one)]
    mappings = [one for one in named if isinstance(one, Mapping)]
    return mappings + [{"shadow_params": one} for one in listed]


def _average(candidate: Mapping[str, Any], raw: Mapping[str, Any]) -> Any:
    """The tensors of a candidate by name or as a list, or None where it has no tensors."""
    if "shadow_params" in candidate:
        listed = candidate["shadow_params"]
        if isinstance(listed, Mapping) and _are_tensors(list(listed.values())):
            return _average(listed, raw)
        return list(listed) if isinstance(listed, list | tuple) else [listed]
    inner = [one for one in candidate.values() if isinstance(one, Mapping)]
    for one in inner:
        average = _average(one, raw)
        if average is not None:
            return average
    tensors = {str(n): one for n, one in candidate.items() if isinstance(one, Tensor)}
    modules = {n: one for n, one in tensors.items() if n.startswith("ema_model.")}
    named = {n.removeprefix("ema_model."): one for n, one in (modules or tensors).items()}
    named = unwrapped({n: one for n, one in named.items() if n not in COUNTERS and one.ndim})
    dotless = {name.replace(".", ""): name for name in raw}
    if named and named.keys() <= dotless.keys():
        named = {dotless[name]: one for name, one in named.items()}
    return named or next(
        (list(v) for v in candidate.values() if isinstance(v, list | tuple) and _are_tensors(v)),
        None,
    )


def _are_tensors(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, Tensor) for value in values)
