"""YAML that a Python program dumped, read as plain values without running anything.

ml_collections, argparse and others write tags that name Python's types and calls:

    model: !!python/object:ml_collections.config_dict.config_dict.ConfigDict
      _fields: {ch_mult: !!python/tuple [1, 2, 2, 2]}

An ordinary loader would import what is named and call it. Here the tags only say how the values
are written down: a tuple is a list, an object is what it holds, a name is a word, and a call is the
list of its arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any

import yaml

PREFIX = "tag:yaml.org,2002:python/"
# Python's own kinds of values, and YAML's tags for the same.
SCALARS = {
    "str": "str",
    "unicode": "str",
    "bytes": "binary",
    "none": "null",
    "bool": "bool",
    "int": "int",
    "long": "int",
    "float": "float",
}
# Where ConfigDict and FieldReference of ml_collections keep what they hold.
HELD = ("_fields", "_value")
DICTS = ("collections.OrderedDict", "builtins.dict", "collections.defaultdict")


def read_yaml(text: str) -> Any:
    """The value of a YAML document, of dicts, lists, words and numbers.

    Raises:
        yaml.YAMLError: It is no YAML, or has tags that are neither YAML's nor Python's.
    """
    return yaml.load(text, Loader=_PlainLoader)  # a SafeLoader that calls nothing


class _PlainLoader(yaml.SafeLoader):
    """YAML's safe loader, which also reads the notation of Python's values."""


def _tagged(loader: _PlainLoader, suffix: str, node: yaml.Node) -> Any:
    kind, _, name = suffix.partition(":")
    if kind in SCALARS:
        construct: Callable[..., Any] = loader.yaml_constructors[
            f"tag:yaml.org,2002:{SCALARS[kind]}"
        ]
        return construct(loader, node)
    if kind in ("name", "module"):
        return name
    value = _untagged(loader, node)
    if kind == "object":
        return _held(value)
    if kind in ("object/new", "object/apply"):
        return _called(name, value)
    if kind in ("tuple", "list", "dict"):
        return value
    raise yaml.constructor.ConstructorError(
        None, None, f"the tag !!python/{suffix[:80]} has no plain value", node.start_mark
    )


def _untagged(loader: _PlainLoader, node: yaml.Node) -> Any:
    """The value of a node by its form alone."""
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


def _held(state: Any) -> Any:
    """What an object holds, by its attributes."""
    if not isinstance(state, Mapping):
        return state
    for name in HELD:
        if name in state:
            if state.get("_ops"):  # a field that is computed from others, by functions
                raise yaml.constructor.ConstructorError(
                    None, None, "a field is computed from others (_ops); write its value"
                )
            return state[name]
    return state


def _called(name: str, call: Any) -> Any:
    """What the notation of a call would have been given: items, attributes, or arguments."""
    parts: Mapping[str, Any] = call if isinstance(call, Mapping) else {"args": call}
    arguments = parts.get("args") or []
    if name in DICTS:
        return _dict(arguments[-1:]) | _dict([parts.get("dictitems")])
    if parts.get("state") and not parts.get("dictitems"):
        return _held(parts["state"])
    for place in ("dictitems", "listitems", "kwds"):
        if parts.get(place):
            return parts[place]
    one = arguments[0] if isinstance(arguments, list) and len(arguments) == 1 else None
    return one if isinstance(one, Mapping) else arguments


def _dict(arguments: Any) -> dict[Any, Any]:
    """The dict of its one argument, a mapping or pairs, or of none."""
    try:
        return {name: value for one in arguments if one for name, value in dict(one).items()}
    except (TypeError, ValueError) as error:
        raise yaml.constructor.ConstructorError(
            None, None, "a dict is made of something else than pairs"
        ) from error


_PlainLoader.add_multi_constructor(PREFIX, _tagged)
