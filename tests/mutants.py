"""Change each coefficient and each sign of the solvers in turn; some test must notice.

python -m tests.mutants [FILE …]        (or `make mutants`)

A mutant is one file of the tree with one change: a number 1 % larger, a returned coefficient or a
weight of a stage 1 % larger, a sum turned into a difference, a sign dropped. Each runs in a process
of its own, in memory, with the tests of its file, and the sources on disk are never changed. The
survivors are listed at the end, and there should be none.
"""

import ast
import copy
import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location

from tests.places import ROOT

LIMIT = 600  # seconds after which a mutant counts as noticed: it does not end

PLANS = [
    "tests/samplers/test_published_steps.py",
    "tests/samplers/test_presets.py",
    "tests/samplers/test_orders.py",
    "tests/samplers/test_identities.py",
    "tests/samplers/test_published_recursions.py",
    "tests/test_compatibility.py",
]
# Functions that hold coefficients, and the tests that must notice a change in them.
TARGETS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "samplers/solvers/prediction.py": (("evaluation", "weight", "decay", "variance"), PLANS),
    "samplers/solvers/segment.py": (
        (
            *("factor", "std", "weights", "integrand", "lagrange", "adams"),
            *("halved_difference", "third_order_of_dpm", "_rule", "_variable"),
        ),
        PLANS,
    ),
    "samplers/solvers/exponential.py": (
        ("steps", "_columns", "_weights", "_SCHEMES", "choose_tau"),
        PLANS,
    ),
    "samplers/solvers/runge_kutta.py": (
        ("TABLEAUS", "_in_time", "plan", "sigma_stages", "_between", "_after"),
        PLANS,
    ),
    "samplers/solvers/stochastic.py": (("steps",), PLANS),
    "samplers/solvers/pndm.py": (("steps", "_start", "_transfer"), PLANS),
    "samplers/solvers/restart.py": (("plan",), PLANS),
    "samplers/solvers/predictors.py": (
        ("coefficients", "transition", "step"),
        [*PLANS, "tests/samplers/test_samplers.py", "tests/samplers/test_golden_samplers.py"],
    ),
    "samplers/solvers/variance.py": (("measure", "__call__"), PLANS),
    "samplers/solvers/plan.py": (("evaluate", "combine", "predict"), PLANS),
    "samplers/solvers/solver.py": (
        ("denoising_step", "from_noise_alone"),
        [*PLANS, "tests/samplers/test_noise_alone.py"],
    ),
    "samplers/solvers/folding.py": (
        ("fold", "merge", "_combine", "_sum"),
        [*PLANS, "tests/samplers/test_noise_alone.py"],
    ),
    "samplers/langevin.py": (
        ("step", "step_size", "levels"),
        [
            "tests/samplers/test_published_steps.py",
            "tests/samplers/test_samplers.py",
            "tests/samplers/test_golden_samplers.py",
        ],
    ),
    # Its controller decides how long steps are, not what they are worth.
    "samplers/adaptive.py": (("_trial",), ["tests/samplers/test_adaptive_sde.py"]),
    "samplers/wiener.py": (("take", "put_back"), ["tests/samplers/test_adaptive_sde.py"]),
}


# Plans are no numbers, and zeros do not change.
_UNSCALED = ("tabulate", "up_to_data", "torch.zeros_like")


# Changes of a line that change no number, and why.
EQUIVALENT = {
    (
        "samplers/solvers/segment.py",
        "return 0.5 * (start + end)[:, None] + half * _NODES, half * _WEIGHTS",
        "the sign of «0.5 * (start + end)[:, None] + half * _NODES»",
    ): "the nodes of a Gauss rule lie symmetrically about 0, with equal weights",
    (
        "samplers/solvers/segment.py",
        "return t",
        "«t» × 1.01",
    ): "a polynomial through nodes is the same in any unit of its variable",
    (
        "samplers/solvers/exponential.py",
        "if r == 1:",
        "1 × 1.01",
    ): "the end of a step found by inverting λ is that end, to rounding",
    (
        "samplers/solvers/runge_kutta.py",
        "if part == 1:",
        "1 × 1.01",
    ): "the same",
    (
        "samplers/solvers/runge_kutta.py",
        "stage.x * churn.x, stage.k, [stage.x * d for d in churn.z], stage.t, stage.p, stage.q",
        "«stage.p» × 1.01",
    ): "p is 0: methods in σ evaluate the noise alone",
    (
        "samplers/solvers/pndm.py",
        "return steps + tabulate(rest, Stage(factor, columns, (), rest[:-1], p, q))",
        "«p» × 1.01",
    ): "p is 0: PNDM evaluates the noise alone",
    (
        "samplers/solvers/pndm.py",
        "stages.append(Stage(factor, weights, (), at, p, q))",
        "«p» × 1.01",
    ): "p is 0: PNDM evaluates the noise alone",
    (
        "samplers/solvers/restart.py",
        "return steps + self.solver.plan(sde, rest) if len(rest) > 1 else steps",
        "1 × 1.01",
    ): "no number of times lies between",
    (
        "samplers/solvers/plan.py",
        "return torch.add(y if self.p == 1 else y * self.p, s, alpha=self.q)",
        "1 × 1.01",
    ): "a product with 1 that is left out",
    (
        "samplers/solvers/plan.py",
        "return s if self.q == 1 else s * self.q",
        "1 × 1.01",
    ): "a product with 1 that is left out",
    (
        "samplers/solvers/plan.py",
        "if terms and terms[0][1] == 1:",
        "1 × 1.01",
    ): "two operations instead of one",
    (
        "samplers/solvers/folding.py",
        "divisors, folded, forgets = list[float](), list[Step](), plan.depth == 1",
        "1 × 1.01",
    ): "another scale of the evaluations, which their weights undo",
    (
        "samplers/solvers/folding.py",
        "own = next((weight for lag, weight in k if lag == 0), 1.0)",
        "1.0 × 1.01",
    ): "the same",
}


class _Sites(ast.NodeTransformer):
    """Makes the change number `wanted` within the functions named; counts them all."""

    def __init__(self, names: tuple[str, ...], wanted: int | None) -> None:
        self.names, self.wanted, self.count = names, wanted, 0
        self.inside, self.line, self.change = 0, 0, ""

    def _here(self, node: ast.AST, change: str) -> bool:
        """Whether this is the site to change."""
        self.count += 1
        if self.count - 1 != self.wanted:
            return False
        self.line, self.change = getattr(node, "lineno", 0), change
        return True

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        entered = node.name in self.names or self.inside > 0
        self.inside += entered
        body = node.body[1:] if ast.get_docstring(node) else node.body
        if entered:
            node.body = node.body[: len(node.body) - len(body)] + [self.visit(s) for s in body]
        else:
            self.generic_visit(node)
        self.inside -= entered
        return node

    def _visit_named(self, node: ast.Assign | ast.AnnAssign, target: ast.expr) -> ast.AST:
        entered = isinstance(target, ast.Name) and target.id in self.names
        self.inside += entered
        if node.value is not None:
            node.value = self.visit(node.value)
        self.inside -= entered
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        return self._visit_named(node, node.targets[0])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return self._visit_named(node, node.target)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        node.value = self.visit(node.value)  # an index is no coefficient
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        number = type(node.value) in (int, float) and node.value != 0
        if self.inside and number and self._here(node, f"{node.value} × 1.01"):
            return ast.copy_location(ast.Constant(node.value * 1.01), node)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        change = f"the sign of «{ast.unparse(node)}»"
        sum_ = self.inside and isinstance(node.op, ast.Add | ast.Sub)
        if sum_ and self._here(node, change):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        negative = self.inside and isinstance(node.op, ast.USub)
        return node.operand if negative and self._here(node, f"«{ast.unparse(node)}»") else node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if self.inside and node.value is not None:
            node.value = self._scaled(node.value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if self.inside and isinstance(node.func, ast.Name) and node.func.id == "Stage":
            node.args = [self._scaled(argument) for argument in node.args]
        return node

    def _scaled(self, node: ast.expr) -> ast.expr:
        """An expression, or one element of it, made 1 % larger if it is arithmetic."""
        if isinstance(node, ast.Tuple | ast.List):
            node.elts = [self._scaled(element) for element in node.elts]
            return node
        kinds = ast.BinOp | ast.Name | ast.Attribute | ast.UnaryOp | ast.Call
        made = isinstance(node, ast.Call) and ast.unparse(node.func) in _UNSCALED
        if (
            isinstance(node, kinds)
            and not made
            and self._here(node, f"«{ast.unparse(node)}» × 1.01")
        ):
            return ast.BinOp(node, ast.Mult(), ast.Constant(1.01))
        return node


def mutants(file: str) -> Iterator[tuple[str, str]]:
    """Each mutant of a file that is not known to be equivalent: its change and its source."""
    names, _ = TARGETS[file]
    source = (ROOT / file).read_text()
    tree, lines = ast.parse(source), source.splitlines()
    census = _Sites(names, None)
    census.visit(copy.deepcopy(tree))
    for number in range(census.count):
        site = _Sites(names, number)
        changed = ast.fix_missing_locations(site.visit(copy.deepcopy(tree)))
        if (file, lines[site.line - 1].strip(), site.change) not in EQUIVALENT:
            yield f"line {site.line}: {site.change}", ast.unparse(changed)


class _Mutated(MetaPathFinder, SourceFileLoader):
    """Finds one module in a source held in memory."""

    def __init__(self, file: str, source: str) -> None:
        self.module = "scoresde." + file.removesuffix(".py").replace("/", ".")
        SourceFileLoader.__init__(self, self.module, str(ROOT / file))
        self.source = source

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        return spec_from_file_location(name, self.path, loader=self)

    def get_code(self, name):
        return compile(self.source, self.path, "exec")


def launch(file: str, source: str) -> int:
    """Start the tests of a file on a mutant, in a child of this process, and return its id."""
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    import pytest

    sys.meta_path.insert(0, _Mutated(file, source))
    os.chdir(ROOT)
    selected = ["-k", "not (subvp or cosine or edm or ddpm or ncsn)"]
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *selected]
    status = 1
    try:
        for suite in TARGETS[file][1]:  # one after another: most mutants die in the first
            status = int(pytest.main([*options, suite]))
            if status:
                break
    finally:
        os._exit(status)


def outcomes(jobs: list[tuple[str, str, str]]) -> Iterator[tuple[str, bool]]:
    """The change and whether the tests still passed, for each mutant; two run at a time."""
    waiting, running = list(reversed(jobs)), dict[int, tuple[str, float]]()
    while waiting or running:
        while waiting and len(running) < 2:
            file, change, source = waiting.pop()
            running[launch(file, source)] = f"{file}, {change}", time.monotonic() + LIMIT
        for child, (change, deadline) in list(running.items()):
            done, status = os.waitpid(child, os.WNOHANG)
            if not done and time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                done, status = os.waitpid(child, 0)
            if done:
                del running[child]
                yield change, status == 0
        time.sleep(0.02)


def main() -> int:
    """Try all mutants; the number of survivors, at most 100, is the exit code."""
    # What every child needs is loaded once, before the forks.
    import pytest  # noqa: F401
    import scipy.integrate  # noqa: F401
    import sklearn  # noqa: F401
    import torch

    torch.set_num_threads(1)
    files = sys.argv[1:] or list(TARGETS)
    jobs = [(file, change, source) for file in files for change, source in mutants(file)]
    survivors, begun = 0, time.monotonic()
    suites = {tuple(TARGETS[file][1]): file for file in files}
    whole = [(file, "unchanged", (ROOT / file).read_text()) for file in suites.values()]
    failing = [change for change, lived in outcomes(whole) if not lived]
    if failing:
        print(f"the tests fail without any mutant: {', '.join(failing)}")
        return 1
    print(f"{len(jobs)} mutants", flush=True)
    for done, (change, lived) in enumerate(outcomes(jobs), 1):
        survivors += lived
        if lived:
            print(f"SURVIVES {change}", flush=True)
        if done % 20 == 0 or done == len(jobs):
            minutes = (time.monotonic() - begun) / 60
            print(f"{done}/{len(jobs)}, {survivors} alive, {minutes:.0f} min", flush=True)
    return min(survivors, 100)


if __name__ == "__main__":
    sys.exit(main())
