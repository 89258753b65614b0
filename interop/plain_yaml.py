"""YAML with Python's tags, read as plain values without running code.

ml_collections, argparse and others write tags that name Python types and calls:

    model: !!python/object:ml_collections.config_dict.config_dict.ConfigDict
      _fields: {ch_mult: !!python/tuple [1, 2, 2, 2]}

An ordinary loader would import and call these names. Here the tags only determine the plain value:
a tuple becomes a list, an object its contents, a name a string, and a call the list of its
arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any

import yaml

PREFIX = "tag:yaml.org,2002:python/"
# Python's scalar types, and YAML's tags for them.
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
# Attributes with the contents of ConfigDict and FieldReference of ml_collections.
HELD = ("_fields", "_value")
DICTS = ("collections.OrderedDict", "builtins.dict", "collections.defaultdict")


def read_yaml(text: str) -> Any:
    """The value of a YAML document, of dicts, lists, strings and numbers.

    Raises:
        yaml.YAMLError: The text is no YAML, or has tags that are neither YAML's nor Python's.
    """
    return yaml.load(text, Loader=_PlainLoader)  # a SafeLoader


class _PlainLoader(yaml.SafeLoader):
    """YAML's safe loader, which also reads Python's tags as plain values."""


def _tagged(loader: _PlainLoader, suffix: str, node: yaml.Node) -> Any:
    kind, _, name = suffix.partition(":")
    if kind in SCALARS:
        tag = f"tag:yaml.org,2002:{SCALARS[kind]}"
        construct: Callable[..., Any] = loader.yaml_constructors[tag]
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
    """The value of a node without its tag."""
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


def _held(state: Any) -> Any:
    """The contents of an object, from its attributes."""
    if not isinstance(state, Mapping):
        return state
    for name in HELD:
        if name in state:
            if state.get("_ops"):  # a field that functions compute from others
                raise yaml.constructor.ConstructorError(
                    None, None, "a field is computed from others (_ops); write its value"
                )
            return state[name]
    return state


def _called(name: str, call: Any) -> Any:
    """The items, attributes or arguments of a call."""
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
    """The dict from at most one argument, a mapping or pairs."""
    try:
        return {name: value for one in arguments if one for name, value in dict(one).items()}
    except (TypeError, ValueError) as error:
        raise yaml.constructor.ConstructorError(
            None, None, "a dict is made from something other than pairs"
        ) from error


_PlainLoader.add_multi_constructor(PREFIX, _tagged)
