"""Mutation testing of one module: `python -m tests.mutants losses/focal.py`. Which changes does no test see?

Each mutant is the module with one change to its syntax tree, imported in place of the module by a forked process,
which runs the tests below and stops at the first that fails. No file is touched.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import os
import resource
import shlex
import signal
import sys
import tempfile
import time
from importlib.machinery import SourceFileLoader
from pathlib import Path

EVERY = "tests/losses/test_every_loss.py"
TESTS = {  # module: the tests that are to see its changes, the quickest first
    "losses/softmax.py": f"tests/losses/test_softmax.py tests/peers/test_torch.py {EVERY} -k 'not compiled and (softmax or not test_every_loss)'",
    "losses/logistic.py": f"tests/losses/test_logistic.py tests/peers/test_torch.py {EVERY} -k 'not compiled and (logistic or not test_every_loss)'",
    "losses/one_vs_all.py": f"tests/losses/test_logistic.py tests/peers/test_torch.py {EVERY} -k 'not compiled and (logistic or not test_every_loss)'",
    "losses/focal.py": f"tests/losses/test_targets_and_weights.py {EVERY} -k 'not compiled and (focal or not test_every_loss)'",
    "losses/constant.py": f"{EVERY} -k 'first_bias'",
    "losses/lgl_inr.py": f"tests/losses/test_lgl_inr.py tests/kernels/test_lgl_inr_native.py {EVERY} -k 'not compiled and (lgl-inr or not test_every_loss)'",
    "balance/laws.py": "tests/balance/test_laws.py tests/balance/test_statements.py tests/balance/test_law.py",
    "balance/law.py": "tests/balance/test_law.py tests/balance/test_gradient_ledger.py tests/balance/test_setup.py",
    "weights/class_weights.py": "tests/weights",
    "weights/adjustments.py": "tests/weights",
    "weights/counts.py": "tests/weights",
    "posterior.py": "tests/test_posterior.py",
}
ENOUGH = 0.85

SWAPS = {ast.Add: ast.Sub, ast.Mult: ast.Div, ast.BitAnd: ast.BitOr, ast.And: ast.Or, ast.Eq: ast.NotEq, ast.Is: ast.IsNot, ast.In: ast.NotIn}  # fmt: skip
SWAPS |= {new: old for old, new in SWAPS.items()} | {
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.Mod: ast.FloorDiv,
}
SWAPS |= {ast.FloorDiv: ast.Div}
ORDERS = {ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt)}  # fmt: skip
UNTOUCHED = {"annotation", "returns", "decorator_list"}


def variants(node):
    """Yield what may stand in the place of a node: one change each."""
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.operator() | ast.boolop() | ast.cmpop():
            yield from (new() for new in ORDERS.get(type(node), (SWAPS.get(type(node)),)) if new)
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.If(test=test) if not isinstance(test, ast.Compare):
            yield ast.If(ast.UnaryOp(ast.Not(), test), node.body, node.orelse)
        case ast.Raise():
            yield ast.Pass()
        case ast.Call(func=func, args=args, keywords=keywords):
            if isinstance(func, ast.Attribute) and getattr(func.value, "id", "") not in (
                "torch",
                "F",
                "math",
                "np",
            ):
                yield func.value
            for one in keywords:
                yield ast.Call(func, args, [other for other in keywords if other is not one])


def mutate(tree, parent, inside=False):
    """Yield what was changed, line by line, while the tree is changed; numbers and operators of messages stay."""
    for field, value in ast.iter_fields(parent):
        if field in UNTOUCHED or isinstance(parent, ast.Raise | ast.JoinedStr):
            continue
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST):
                continue
            for new in variants(child) if inside else ():
                line = getattr(child, "lineno", getattr(parent, "lineno", 0))
                whole = child if hasattr(child, "lineno") else parent  # an operator says little by itself
                before = ast.unparse(whole).splitlines()[0]
                _put(parent, field, i, new)
                after = ast.unparse(new if whole is child else parent).splitlines()[0]
                yield f"{line}: {before}  ->  {after}"
                _put(parent, field, i, child)
            yield from mutate(tree, child, inside or isinstance(child, ast.FunctionDef | ast.ClassDef))


def _put(parent, field, i, node):
    value = getattr(parent, field)
    if isinstance(value, list):
        value[i] = node
    else:
        setattr(parent, field, node)


def outcome(name, path, tree, tests, seconds, modules):
    """Return the exit status of the tests under this tree (None: the module as it is), and the CPU seconds."""
    start = time.process_time() + sum(os.times()[2:4])
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        signal.alarm(int(10 * seconds))  # for one that waits
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os._exit(_run(name, path, tree, tests, modules))
    status = os.waitpid(child, 0)[1]
    return status, time.process_time() + sum(os.times()[2:4]) - start


def _run(name, path, tree, tests, modules):
    import hypothesis
    import pytest

    class Finder:
        @staticmethod
        def find_spec(fullname, *_):
            return importlib.util.spec_from_loader(name, Loader(name, path)) if fullname == name else None

    class Loader(SourceFileLoader):
        def get_code(self, fullname):
            return compile(ast.fix_missing_locations(tree), path, "exec")

    hypothesis.settings.register_profile("mutants", database=None, derandomize=True)
    hypothesis.settings.load_profile("mutants")
    if tree is not None:
        sys.meta_path.insert(0, Finder)
    code = int(pytest.main(["-x", "--assert=plain", "-p", "no:cacheprovider", *shlex.split(tests)]))
    modules.write_text("\n".join(sys.modules))
    return code


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", choices=TESTS, metavar="MODULE", help=", ".join(TESTS))
    module = parser.parse_args().module
    path = Path("src/steelyard", module)
    name = "steelyard." + module.removesuffix(".py").replace("/", ".")
    tree, tests = ast.parse(path.read_text()), f"{path} {TESTS[module]}"  # its own examples are tests too
    with tempfile.TemporaryDirectory() as folder:
        modules = Path(folder, "modules")
        status, seconds = outcome(name, str(path), None, tests, 3600, modules)
        if status:
            sys.exit(f"the tests of {module} fail as it is")
        for other in modules.read_text().split():  # what they import is ready in the next, but for our own
            if other.split(".")[0] not in ("steelyard", "tests", "__main__", "conftest"):
                with contextlib.suppress(Exception):
                    importlib.import_module(other)
        total, survivors = sum(1 for _ in mutate(tree, tree)), 0
        for number, what in enumerate(mutate(tree, tree), 1):
            if outcome(name, str(path), tree, tests, 10 + 3 * seconds, modules)[0] == 0:
                survivors += 1
                print(f"survives  {module}:{what}", flush=True)
            print(f"{number} of {total}", end="\r", file=sys.stderr, flush=True)
    killed = total - survivors
    print(f"{module}: {total} mutants, {killed} killed, {killed / total:.0%}")
    sys.exit(killed < ENOUGH * total)


if __name__ == "__main__":
    main()
