"""Configurations that Python dumped as YAML are read as plain values, and nothing is run."""

import argparse
import collections
import json

import numpy as np
import pytest
import torch
import yaml

from scoresde.interop.fields import read_configuration
from scoresde.interop.files import read_fields
from scoresde.interop.plain_yaml import read_yaml

CONFIG = {
    "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1, 2], "sigma_max": 50.0},
    "data": {"image_size": 16, "num_channels": 3, "centered": False},
    "training": {"sde": "vesde", "continuous": True},
}


class ConfigDict:
    """A substitute for ml_collections' class, with these attributes."""

    def __init__(self, fields):
        self._fields = {k: ConfigDict(v) if isinstance(v, dict) else v for k, v in fields.items()}
        self._locked, self._type_safe, self._convert_dict = True, True, True


class EasyDict(dict):
    """A dict with attributes of its own, as many configurations are."""


def easy(fields):
    made = EasyDict({k: easy(v) if isinstance(v, dict) else v for k, v in fields.items()})
    made.note = "an attribute"
    return made


def tuples(value):
    if isinstance(value, dict):
        return {k: tuples(v) for k, v in value.items()}
    return tuple(value) if isinstance(value, list) else value


FORMS = {
    "plain": lambda c: c,
    "tuples": tuples,
    "ConfigDict": lambda c: ConfigDict(tuples(c)),
    "EasyDict": easy,
    "OrderedDict": lambda c: collections.OrderedDict(
        {k: collections.OrderedDict(v) for k, v in c.items()}
    ),
    "Namespace": lambda c: argparse.Namespace(**{k: argparse.Namespace(**v) for k, v in c.items()}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_dumped_configuration_is_read_unchanged(form, tmp_path):
    dumped = yaml.dump(FORMS[form](CONFIG))
    assert ("!!python" in dumped) == (form != "plain")
    (tmp_path / "c.yaml").write_text(dumped)
    assert read_configuration(tmp_path / "c.yaml") == CONFIG
    assert json.loads(json.dumps(read_fields(tmp_path / "c.yaml"))) == CONFIG


def test_classes_that_are_not_here_are_read_as_what_they_hold(tmp_path):
    """ml_collections dumps them with a field that is a reference, and a class as its type."""
    name = "ml_collections.config_dict.config_dict"
    text = f"""
model: !!python/object/new:{name}.FrozenConfigDict
  state:
    _fields:
      ch_mult: !!python/tuple [1, 2]
      name: !!python/unicode 'ncsnpp'
      nf: !!python/long 8
    _locked: true
data: !!python/object:{name}.ConfigDict
  _fields:
    size: &size !!python/object:{name}.FieldReference
      _field_type: !!python/name:builtins.int ''
      _ops: []
      _required: false
      _value: 16
    same: *size
    scale: !!python/float 0.5
    centered: !!python/bool true
    nothing: !!python/none null
device: !!python/object/apply:torch.device [cuda, 0]
"""
    (tmp_path / "c.yml").write_text(text)
    found = read_fields(tmp_path / "c.yml")
    assert found["model"] == {"ch_mult": [1, 2], "name": "ncsnpp", "nf": 8}
    expected = {"size": 16, "same": 16, "scale": 0.5, "centered": True, "nothing": None}
    assert found["data"] == expected
    assert found["device"] == ["cuda", 0]


class Call:
    """An object that is dumped as a call of a function, as in a malicious file."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_calls_are_not_made(tmp_path):
    import os

    mark = tmp_path / "mark"
    attack = yaml.dump({"a": Call(os.mkdir, str(mark))})
    assert read_yaml(attack) == {"a": [str(mark)]}
    assert not mark.exists()
    yaml.unsafe_load(attack)  # the attack works: an ordinary loader runs it
    assert mark.exists()
    assert read_yaml("!!python/name:os.system ''") == "os.system"
    assert read_yaml("!!python/module:os ''") == "os"
    assert read_yaml("!!python/object/new:os.system ['true']") == ["true"]
    assert "__len__" in str(read_yaml("!!python/object:os.X {__len__: 3}"))


@pytest.mark.parametrize(
    "value", [np.float64(50.0), np.int64(3), torch.device("cpu"), CONFIG["model"].get("name")]
)
def test_no_value_is_an_object(value):
    """A number of NumPy is not read as a number, and is refused where one is needed."""
    found = read_yaml(yaml.dump({"sigma_max": value}))

    def plain(one):
        if isinstance(one, dict):
            return all(plain(k) and plain(v) for k, v in one.items())
        if isinstance(one, list):
            return all(map(plain, one))
        return one is None or type(one) in (str, int, float, bool, bytes)

    assert plain(found)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system",
        "a: !!python/frobnicate 3",
        "a: !!ours 3",
        "!!python/int [1]",
        "!!python/int x",
        "? !!python/tuple [1, 2]\n: 3",
        "!!python/object:m.FieldReference {_value: 3, _ops: [1]}",
        "a: &a [*a]\nb: !!python/tuple &b [*b]",
        "!!python/tuple [1, 2]",
        "!!python/object/apply:collections.OrderedDict [[3]]",
        "a: [",
    ],
)
def test_what_has_no_plain_fields_ends_with_one_sentence(text, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(
        ValueError, match=r"c\.yaml (is damaged or no yaml|has no fields)"
    ) as caught:
        read_fields(tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)
