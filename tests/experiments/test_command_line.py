"""How the command line reads what is typed, before anything heavy is imported."""

import ast
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from scoresde.experiments import command_line, quoting, wording
from scoresde.experiments.choices import CONF, groups
from scoresde.experiments.kinds import check_kind
from tests.places import ROOT

NASTY = [
    "/a b/c=(1)",
    "a=b",
    "a,b",
    "#x",
    "a&b",
    "~/x",
    "/données/図",
    "C:\\Users\\(me)\\",
    "\\\\server\\share (1)\\",
    "it's",
    'say "hi"',
    'it\'s "both"',
    "a${b",
    "a\\${b",
    "${}",
    "$HOME",
    "trailing  ",
    "  leading",
    "-x y=1",
    "a\\\\ b",
    '\\"',
    "\\'",
    "a!b;c|d<e>f`g`*?",
    "1e3",
    "true",
    "[a",
    "{b:",
    "two  spaces (x)",
]


def resolved(arguments):
    """The configuration that Hydra composes from the given arguments."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[a for a in arguments if a != "-m"])


def read(argument, multirun=False):
    """The final values of a setting, of which a sweep has several."""
    parsed = OverridesParser.create().parse_override(quoting.read(argument, multirun))
    found = [OmegaConf.create({"k": value}).k for value in quoting.values(parsed)]
    return found if multirun else found[0]


def refused(capsys, *arguments):
    """The sentence with which a command is refused."""
    with pytest.raises(SystemExit) as stop:
        command_line.check(list(arguments))
    assert stop.value.code == 2
    said = capsys.readouterr().err.removesuffix("\n")
    assert said.startswith("error: ") and "\n" not in said
    return said.removeprefix("error: ")


@pytest.mark.parametrize("text", NASTY)
def test_what_is_shown_in_quotes_comes_back_from_shell_and_hydra(text):
    (argument,) = shlex.split(quoting.shell("logger.wandb.project", text))
    assert read(argument) == text
    assert quoting.read(argument, False) == argument


@pytest.mark.parametrize("text", [t for t in NASTY if t != "~/x" and "\\\\" not in t])
def test_a_path_is_taken_as_it_is_typed(text):
    assert read(f"data.root={text}") == text
    assert read(f"+ood_data.root={text}") == text


def test_home_is_expanded_in_every_path_and_nowhere_else(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me (1)")
    for key in (
        "data.root",
        "ood_data.root",
        "checkpoint",
        "resume.from",
        "checkpoint_config",
        "sampler.estimator",
        "task.score",
        "evaluate.likelihood.dequantization.flow",
        "hydra.run.dir",
        "hydra.sweep.dir",
    ):
        assert read(f"{key}=~/x") == "/home/me (1)/x"
        assert read(f'{key}="~/x y"') == "/home/me (1)/x y"
    assert read("data.root=~") == "/home/me (1)"
    assert read("data.root=~nobody-of-this-name/x") == "~nobody-of-this-name/x"
    assert read("data.root=a~/x") == "a~/x"
    assert read("logger.wandb.project='~/x'") == "~/x"
    monkeypatch.setenv("HOME", "/home/me")
    assert read("data.root=~/a,~/b (1), c=d", True) == ["/home/me/a", "/home/me/b (1)", "c=d"]
    assert read('data.root=choice(~/a,"~/b c")', True) == ["/home/me/a", "/home/me/b c"]
    assert quoting.read("hydra.run.dir=~/${sde.steps}", False) == (
        'hydra.run.dir="/home/me/${sde.steps}"'
    )


def test_what_the_grammar_means_in_a_path_stays():
    assert read("checkpoint=null") is None
    assert read("data.root=/a\\ b") == "/a b"
    assert read("data.root='/a, b'") == "/a, b"
    assert read("data.root='/a,b',c", True) == ["/a,b", "c"]
    assert quoting.read("data.root=${oc.env:DATA}/x", False) == "data.root=${oc.env:DATA}/x"


def test_every_name_of_a_path_is_at_home_in_conf():
    names = set()
    flow = ["task=dequantizer", "evaluate/likelihood/dequantization=variational"]
    kinds = ("inpaint", "autoguidance", "classifier", "ddib")
    conditions = [[f"conditioning={kind}"] for kind in kinds]
    for choices in (["data=folder"], ["sampler=noise_adaptive"], flow, *conditions):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", overrides=choices, return_hydra_config=True)
        tree = OmegaConf.to_container(config, resolve=False)
        names |= {key.rpartition(".")[2] for key in leaves(tree)}
    assert set(quoting.PATHS) <= names


def leaves(tree, prefix=""):
    for key, value in tree.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]


@pytest.mark.parametrize(
    "argument, value",
    [
        ("logger.wandb.project=проект", "проект"),
        ("logger.wandb.project=a(b", "a(b"),
        ("device=a=b", "a=b"),
        ("device=[a", "[a"),
        ("seed=foo(1)", "foo(1)"),
    ],
)
def test_a_value_that_cannot_be_read_is_shown_in_quotes(capsys, argument, value):
    said = refused(capsys, "logger=wandb", argument)
    (pasted,) = shlex.split(said.partition(", write ")[2])
    key = argument.partition("=")[0]
    assert OmegaConf.select(resolved(["logger=wandb", pasted]), key) == value


@pytest.mark.parametrize(
    "argument, value",
    [
        ("train.grad_clip=.inf", float("inf")),
        ("train.grad_clip=.Inf", float("inf")),
        ("train.steps=1e3", 1000),
        ("train.steps=1_000", 1000),
        ("train.steps=+5", 5),
        ("train.steps=1.5E+3", 1500),
        ("sde.beta_max=2.55e1", 25.5),
        ("train.optimizer.betas=[.9,9e-1]", [0.9, 0.9]),
        ("evaluate.bounds.vlb=1e3", 1000),
        ("data.range=[-1e0, .inf]", [-1, float("inf")]),
        ("logger.csv.note=run-1e3", "run-1e3"),
        ("device='1e3'", "1e3"),
    ],
)
def test_numbers_are_read_as_yaml_writes_them(argument, value):
    got = read(argument)
    assert got == value and type(got) is type(OmegaConf.create({"k": value}).k)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["train.grad_clip=.nan"], "train.grad_clip=.nan is not a number"),
        (["model.net.ch_mult=[1,nan]"], "is not a number"),
        (["train.steps="], "train.steps= has no value; give one"),
        (["data=mnist", "data.root="], "data.root= has no value"),
        (["experiment="], "experiment= names no choice"),
        (["data@ood_data=null"], "To choose nothing, leave it out. Choices: checkerboard"),
        (["data.flip=yes"], "data.flip must be true or false, got 'yes'"),
        (
            ["sde=ddpm", "sde.base=5"],
            "sde.base has settings of its own, got 5; name one: sde.base.",
        ),
        (["sampler.predictor=ddim"], "write sampler/predictor=ddim"),
        (["-m", "sde.beta_max=1,x"], "sde.beta_max must be a number, got 'x'"),
        (["-m", "sde=vp,ve,vpp"], "Did you mean sde=vp?"),
        (["hydra.mode=MULTIRUN", "sde=vp,vpp"], "Did you mean sde=vp?"),
        (["train.steps=1,2"], "add -m to run each of them, or train.steps=[1,2] for a list"),
        (["logger=csv,wandb"], "or logger=[csv,wandb] for all at once"),
        (["hydra/launcher=joblb"], "Could not find 'hydra/launcher/joblb' Available options"),
        (["sampler/predictr=ddim"], "Did you mean sampler/predictor?"),
        (["train.steps", "=", "5"], "'train.steps' is not an override; use key=value"),
        (["schlüssel=1"], "'schlüssel' is not the name of a setting"),
        (["--sde=vp"], "unknown option --sde=vp; settings have no dashes"),
        (["--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["--resolve"], "--resolve belongs to --cfg job"),
        (["-m", "--cfg", "job"], "only one of --run, --multirun, --cfg and --info"),
        (["--experimental-rerun", "config.pickle"], "reads a pickle, which can run anything"),
        (["--help", "sde=vpp"], "Did you mean sde=vp?"),
    ],
)
def test_wrong_commands_are_refused(capsys, arguments, sentence):
    assert sentence in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "key, given, default, sentence",
    [
        ("dry_run", "on", False, "dry_run must be true or false, got 'on'"),
        ("data.flip", 1, True, "data cannot be built .* data.flip must be true or false, got 1"),
        ("model.net.ch_mult", 2, [1, 2], r"must be a list, such as \[1,2\], got 2"),
        ("model.net.nf", "16", 16, "model.net.nf must be an integer, got '16'"),
        ("model.net.dropout", True, 0.0, "model.net.dropout must be a number, got true"),
        ("train.optimizer.weight_decay", "x", 0.0, "weight_decay must be a number, got 'x'"),
        ("data.seed", float("inf"), 0, "data.seed must be finite, got inf"),
        ("sde.base", "vp", {"beta_min": 1}, "settings of its own, got 'vp'; name one: sde.base.b"),
    ],
)
def test_values_of_another_kind_are_refused(key, given, default, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_kind(key, given, default)


def test_values_of_the_same_kind_pass():
    for given, default in (
        (1, 1.0),
        (1.5, 1),
        (float("inf"), 1.0),
        (None, 1),
        ("x", None),
        (5, "name"),
        ("${seed}", 1),
        ("x", "${seed}"),
        ({"a": 1}, {"b": 2}),
        ([], [1]),
    ):
        check_kind("sde.x", given, default)
    check_kind("seed", "x", 0)  # its class says it, with its bounds


def test_options_may_stand_anywhere():
    assert command_line.check(["sde=vp,ve", "-m", "seed=1,2"]) == ["sde=vp,ve", "seed=1,2", "-m"]


@pytest.mark.slow
def test_what_hydra_accepts_is_not_refused():
    """Presets on top of presets, and other commands that look like mistakes, are accepted."""
    command_line.check(["-m", f"experiment={','.join(groups()['experiment'][::4])}"])
    for arguments in (
        ["sampler=predictor/ddim", "model.net.ch_mult.0=3"],
        [
            "sde=ddpm",
            "sde.base.beta_max=${sde.base.beta_min}",
            "sde={steps:500}",
            "~sampler.grid",
        ],
        ["data@ood_data=mixture", "ood_data.n=5"],
        ["+logger.csv.note='a b'", "++train.steps=5", "hydra.job.name=x"],
        ["sde='vp'", "sampler/corrector=none", "sampler/grid=karras", "sampler.grid.rho=5"],
        ["experiment=cifar10_ncsnpp_ve_discrete", "sde.base.sigma_max=9", "model.c_noise=process"],
    ):
        assert resolved(command_line.check(arguments))
    command_line.check(["-m", "sde=glob(v*)", "seed=range(0,3)"])
    command_line.check(["-m", "hydra/launcher=basic", "seed=range(0,3)", "sde=choice(vp,ve)"])


@pytest.mark.slow
def test_wrong_commands_and_help_import_nothing_heavy():
    """torch alone takes seconds to import; one process checks which modules are imported."""
    code = """
import contextlib, io, runpy, sys
from scoresde.experiments import convert, run, table
commands = [["--help"], ["-h", "sde=ve"], ["--hydra-help"], ["--cfg", "job"], ["sde=vpp"], ["x"],
            ["train.step=1"], ["data.flip=yes"], ["device=a=b"]]
for command in commands:
    sys.argv = ["run.py", *command]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            run.main()
        except SystemExit as stop:
            code = stop.code
    print(code, end=" ")
table.main([])
for name in ("scoresde.experiments.convert", "benchmarks.solvers", "benchmarks.overhead"):
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__")
heavy = "torch numpy scipy sklearn matplotlib joblib wandb tensorboard diffusers".split()
ours = "sde models samplers training evaluation interop data experiments.build experiments.job"
heavy += ["scoresde." + name for name in ours.split()]
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "0 0 0 0 2 2 2 2 2 []\n", done.stdout + done.stderr


def test_errors_name_keys_of_the_command_line():
    known = {"sampler.rtol", "evaluate.likelihood.rtol", "sampler.adaptive", "seed"}
    for said, expected in {
        "eps must be > 0, got None": "eps must be > 0, got null",
        "rtol must be > 0, got 0": "sampler.rtol must be > 0, got 0",
        "unknown rtol 'no'. Available: 0": "unknown sampler.rtol 'no'. Available: 0",
        "use divergence=exact": "use evaluate/likelihood/divergence=exact",
        "loosen rtol, or use adaptive=False": "loosen rtol, or use sampler.adaptive=false",
        "use grid=log_snr": "use sampler/grid=log_snr",
        "use DDIM(), or less": "use sampler/predictor=ddim, or less",
        "use sampler=pc, or seed=1": "use sampler=pc, or seed=1",
        "it needs eta=0 of its own": "it needs eta=0 of its own",
        "use dtype=float64 in Python": "use dtype=float64 in Python",
    }.items():
        assert wording.in_keys(said, known, ["sampler.rtol=0"]) == expected
    assert (
        wording.in_keys("rtol is 0", known, ["sampler.rtol=0", "evaluate.likelihood.rtol=0"])
        == "rtol is 0"
    )


def test_no_error_advises_what_a_command_line_lacks():
    """Each NAME=VALUE in an error of the library is a key, a group, or marked as Python's."""
    names = {name.rpartition("/")[2] for name in groups()}
    for file in CONF.rglob("*.yaml"):
        names |= {key.rpartition(".")[2] for key in leaves(yaml.safe_load(file.read_text()))}
    advised = 0
    for folder in ("sde", "samplers", "models", "training", "evaluation", "data"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.Raise) or node.exc is None:
                    continue
                said = re.sub(r"\{[^{}]*\}", "X", ast.unparse(node.exc))
                for found in wording.ARGUMENT.finditer(said):
                    advised += 1
                    assert found[1] in names or "in Python" in said, f"{file}: {said}"
    assert advised > 5
