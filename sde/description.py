"""Objects that record how they were made, in plain values, and can be made again from them.

A description is a dict of the class's public name and of every argument, as JSON has them:

    {"_target_": "scoresde.sde.VP", "beta_min": 0.1, "beta_max": 20.0, "schedule": None}

which is also what a leaf of the configuration looks like. Old files use older names, such as
`sde.VP`; `current_names` translates them.
"""

import copy
import inspect
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Self

Plain = dict[str, Any] | list[Any] | str | int | float | bool | None

NAME = __name__.partition(".")[0]  # of the package that holds all others
# Packages that once were top-level packages.
FORMER = ("sde", "samplers", "models", "training", "evaluation", "interop", "data", "experiments")
# Arguments of classes that once had other names.
FORMER_ARGUMENTS = {"scoresde.models.UNet": {"conditional": "noise_conditional"}}


class Described:
    """A base of classes whose objects remember the arguments that made them.

    Arguments must be plain values, lists and dicts of them, or described objects.
    """

    _made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments before the constructor sees them."""
        self = super().__new__(cls)
        # Containers are copied, since the caller may change them later.
        kept = tuple(_copied(value) for value in args)
        named = {name: _copied(value) for name, value in kwargs.items()}
        object.__setattr__(self, "_made_with", (kept, named))
        return self

    def remember(self, **arguments: Any) -> None:
        """Describe the object by these arguments, which are equivalent to those that made it."""
        object.__setattr__(self, "_made_with", ((), arguments))


def describe(thing: Described) -> dict[str, Any]:
    """The public name of an object's class and all arguments that made it, as plain values.

    Raises:
        TypeError: The object is not described, or an argument is neither plain nor described.
    """
    cls = type(thing)
    if not isinstance(thing, Described):
        raise TypeError(
            f"{cls.__name__} does not say how it was made; derive it from "
            "scoresde.sde.Described, or pass the object itself when loading"
        )
    if "<locals>" in cls.__qualname__:
        raise TypeError(f"{cls.__name__} is defined inside a function, where no file can find it")
    args, kwargs = thing._made_with
    bound = inspect.signature(cls).bind(*args, **kwargs)
    bound.apply_defaults()
    named = {name: _plain(value, f"{cls.__name__}({name}=…)") for name, value in _flat(bound)}
    return {"_target_": _public_name(cls)} | named


def construct(description: Mapping[str, Any], **wires: Any) -> Any:
    """Make the object of a description.

    Args:
        description: Result of `describe`. Only described classes of packages that are already
            imported are made, so that a file cannot name code to run.
        wires: Arguments in addition to or in place of those described.

    Raises:
        ValueError: There is no such class, or it takes no such arguments.
    """
    description = current_names(description)
    cls = _find(description.get("_target_"))
    arguments = {k: _made(v) for k, v in description.items() if k != "_target_"} | wires
    known = inspect.signature(cls).parameters
    unknown = sorted(arguments.keys() - known.keys())
    if unknown:
        raise ValueError(
            f"{description['_target_']} takes no {', '.join(unknown)}; it takes "
            f"{', '.join(known)}. Was it written by a newer version?"
        )
    return cls(**arguments)


def current_name(target: str) -> str:
    """The current name of a class or function of the toolkit: `scoresde.sde.VP` for `sde.VP`.

    Names in a user's own packages, and names that the toolkit does not have, stay as they are.
    """
    module, _, name = target.rpartition(".")
    if module.partition(".")[0] not in FORMER or hasattr(sys.modules.get(module), name):
        return target
    try:
        ours = import_module(f"{NAME}.{module}")
    except ImportError:
        return target
    return f"{NAME}.{target}" if hasattr(ours, name) else target


def current_names(settings: Any) -> Any:
    """A copy of nested lists and dicts in which classes and their arguments have current names.

    Also the settings of a `ScoreModel`, which have no `_target_`: its c_noise was once called
    `labels`, which the parameterization `edm` ignored.
    """
    if isinstance(settings, list):
        return [current_names(one) for one in settings]
    if not isinstance(settings, Mapping):
        return settings
    whole = {key: current_names(value) for key, value in settings.items()}
    if isinstance(whole.get("_target_"), str):
        whole["_target_"] = current_name(whole["_target_"])
        renamed = FORMER_ARGUMENTS.get(whole["_target_"], {})
        whole = {renamed.get(key, key): value for key, value in whole.items()}
    if {"parameterization", "labels"} <= whole.keys():
        usual = whole.pop("labels") == "process" or whole["parameterization"] == "edm"
        whole["c_noise"] = None if usual else "descending"
    return whole


def _copied(value: Any) -> Any:
    return copy.deepcopy(value) if isinstance(value, list | dict | tuple) else value


def _flat(bound: inspect.BoundArguments) -> list[tuple[str, Any]]:
    kinds = bound.signature.parameters
    wide = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    unnamed = [name for name in bound.arguments if kinds[name].kind in wide]
    if any(bound.arguments[name] for name in unnamed):
        raise TypeError("a described class must name each of its arguments")
    # A class without a constructor has them too, but got no arguments.
    return [(name, value) for name, value in bound.arguments.items() if name not in unnamed]


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Described):
        return describe(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one, where) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, where) for one in value]
    raise TypeError(f"{where} is a {type(value).__name__}, which a description cannot hold")


def _made(value: Any) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return construct(value)
    if isinstance(value, Mapping):
        return {key: _made(one) for key, one in value.items()}
    return [_made(one) for one in value] if isinstance(value, list) else value


def _public_name(cls: type) -> str:
    """`package.Class` where the package offers the class, else its module's name and its own."""
    parts = cls.__module__.split(".")
    package = ".".join(parts[:2] if parts[0] == NAME else parts[:1])
    offered = getattr(sys.modules.get(package), cls.__name__, None) is cls
    return f"{package if offered else cls.__module__}.{cls.__qualname__}"


def _find(target: Any) -> type:
    module, _, name = str(target).rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, Described)) or cls is Described:
        raise ValueError(
            f"'{target}' is not a described class that is known here; "
            "import the package that has it, or pass the object itself"
        )
    return cls
