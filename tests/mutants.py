"""Mutation testing of one module: `python -m tests.mutants losses/focal.py`. Which changes does no test see?

Each mutant is the module with one change to its syntax tree. A forked process runs the tests below under it and stops
at the first that fails. A change inside a function needs no new import: the forked process takes the tests as they
are collected and gives the function its changed code. Any other change is imported in place of the module. No file
is touched.
"""

import argparse
import ast
import contextlib
import gc
import importlib
import importlib.util
import inspect
import json
import os
import resource
import shlex
import signal
import sys
import tempfile
import time
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path

EVERY = "tests/losses/test_every_loss.py"
TESTS = {  # module: the tests that are to see its changes
    "losses/softmax.py": f"tests/losses/test_softmax.py tests/peers/test_torch.py {EVERY} -k 'not compiled and (softmax or not test_every_loss)'",
    "losses/logistic.py": f"tests/losses/test_logistic.py tests/peers/test_torch.py {EVERY} -k 'not compiled and (logistic or not test_every_loss)'",
    "losses/one_vs_all.py": f"tests/losses/test_logistic.py tests/peers/test_torch.py {EVERY} -k 'not compiled and (logistic or not test_every_loss)'",
    "losses/asymmetric.py": f"tests/losses/test_asymmetric.py {EVERY} -k 'not compiled and (asymmetric or not test_every_loss)'",
    "losses/poly1.py": f"tests/losses/test_poly1.py {EVERY} -k 'not compiled and (poly1 or not test_every_loss)'",
    "losses/class_smoothing.py": f"tests/losses/test_class_smoothing.py {EVERY} -k 'not compiled and (class-smoothing or not test_every_loss)'",
    "losses/focal.py": f"tests/losses/test_targets_and_weights.py {EVERY} -k 'not compiled and (focal or not test_every_loss)'",
    "losses/constant.py": f"tests/losses/test_targets_and_weights.py {EVERY} -k 'first_bias'",
    "losses/lgl_inr.py": f"tests/losses/test_lgl_inr.py tests/losses/test_lgl_inr_group.py {EVERY} -k 'not compiled and not memory and not many_rows and (lgl-inr or not test_every_loss)'",
    "balance/laws.py": "tests/balance/test_laws.py -k 'not detached'",
    "balance/law.py": "tests/balance/test_law.py tests/balance/test_gradient_ledger.py tests/balance/test_setup.py",
    "weights/class_weights.py": "tests/weights/test_weights.py tests/weights/test_counts.py",
    "weights/adjustments.py": "tests/weights",
    "weights/counts.py": "tests/weights",
    "posterior.py": "tests/test_posterior.py -k 'not onnx and not export_to and not of_batches'",
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


def functions(code, found=None):
    """Return the code of the functions of a module and of its classes by name (None where two share one), and the rest."""
    found = {} if found is None else found
    rest = [code.co_code, code.co_names]
    for const in code.co_consts:
        if not isinstance(const, types.CodeType):
            rest.append((type(const), const))
        elif const.co_flags & inspect.CO_OPTIMIZED:
            found[const.co_qualname] = None if const.co_qualname in found else const
        else:
            rest.append(functions(const, found)[1])
    return found, rest


def changed_function(path, original, tree, module):
    """Return the live function of a module that is changed in a tree and its changed code, or None if more is."""
    (before, rest), (after, changed_rest) = (functions(compile(t, path, "exec")) for t in (original, tree))
    names = [name for name in before if before[name] != after.get(name)]
    if rest != changed_rest or len(names) != 1 or before[names[0]] is None:
        return None
    found = module
    for part in names[0].split("."):
        found = vars(found).get(part)
        found = getattr(found, "fget", None) or getattr(found, "func", None) or found  # a property, a cached one
    found = inspect.unwrap(getattr(found, "__func__", found))
    code = after[names[0]]
    if getattr(found, "__code__", None) != before[names[0]] or code.co_freevars != found.__code__.co_freevars:
        return None
    return found, code


def outcome(run, seconds):
    """Return the exit status of a forked process that calls `run`, and its CPU seconds."""
    start = time.process_time() + sum(os.times()[2:4])
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        signal.alarm(int(10 * seconds))  # for one that waits
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        status = 1
        try:
            status = int(run())
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    return status, time.process_time() + sum(os.times()[2:4]) - start


def pytest_main(tests, folder, *plugins):
    """Return the exit status of pytest."""
    import hypothesis
    import pytest

    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, max_examples=30)
    hypothesis.settings.load_profile("mutants")
    options = ["-x", "--assert=plain", "-p", "no:cacheprovider", f"--basetemp={folder}/tmp"]
    return pytest.main([*options, *shlex.split(tests)], plugins)


def imported_instead(name, path, tree):
    """Have a tree imported in the place of a module."""

    class Finder:
        @staticmethod
        def find_spec(fullname, *_):
            return importlib.util.spec_from_loader(name, Loader(name, path)) if fullname == name else None

    class Loader(SourceFileLoader):
        def get_code(self, fullname):
            return compile(tree, path, "exec")

    sys.meta_path.insert(0, Finder)


class Collected:
    """A plugin of pytest that hands a function that runs the tests to `use`, in place of running them."""

    def __init__(self, use):
        self.use = use

    def pytest_runtestloop(self, session):
        """Say that all is done."""

        def run(times=None):
            for item, following in zip(session.items, [*session.items[1:], None], strict=True):
                start = time.process_time()
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if session.testsfailed:
                    return 1
                if times is not None:
                    times[item.nodeid] = time.process_time() - start
            return 0

        gc.freeze()
        self.use(run, session.items)
        return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("module", choices=TESTS, metavar="MODULE", help=", ".join(TESTS))
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="only each N-th mutant, from the first on"
    )
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="only the survivors that an earlier run printed"
    )
    args = parser.parse_args()
    module = args.module
    path = Path("src/steelyard", module)
    name = "steelyard." + module.removesuffix(".py").replace("/", ".")
    original, tree = ast.parse(path.read_text()), ast.parse(path.read_text())
    tests = f"{path} {TESTS[module]}"  # its own examples are tests too
    again = args.again and {line.partition(": ")[2] for line in args.again.read_text().splitlines()}
    out, progress = (os.fdopen(os.dup(stream), "w") for stream in (1, 2))  # pytest takes the others

    def mutants():
        for number, what in enumerate(mutate(tree, tree)):
            what = f"survives  {module}:{what}"
            if number % args.every == 0 and (again is None or what.partition(": ")[2] in again):
                ast.fix_missing_locations(tree)
                yield number, what

    def survives(number, what, run):
        survived = outcome(run, 10 + 3 * seconds)[0] == 0
        if survived:
            print(what, file=out, flush=True)
        print(f"{number + 1} of {every}", end="\r", file=progress, flush=True)
        return survived

    every, total = sum(1 for _ in mutate(tree, tree)), sum(1 for _ in mutants())
    with tempfile.TemporaryDirectory() as folder:
        modules, results = Path(folder, "modules"), Path(folder, "results")

        def as_it_is():
            status = pytest_main(tests, folder)
            modules.write_text("\n".join(sys.modules))
            return status

        def timed(run):
            times = {}
            status = run(times)
            results.write_text(json.dumps(times))
            return status

        def in_functions(run, items):
            if outcome(lambda: timed(run), 10 + 3 * seconds)[0]:
                raise RuntimeError("the tests fail, unchanged, in a forked process")
            times = json.loads(results.read_text())
            items.sort(key=lambda item: times[item.nodeid])  # the quickest first
            survivors, others = 0, []
            for number, what in mutants():
                changed = changed_function(path, original, tree, sys.modules[name])
                if changed is None:
                    others.append(number)
                    continue

                def mutated(function=changed[0], code=changed[1]):
                    function.__code__ = code
                    return run()

                survivors += survives(number, what, mutated)
            results.write_text(json.dumps([survivors, others]))

        status, seconds = outcome(as_it_is, 3600)
        if status:
            sys.exit(f"the tests of {module} fail as it is")
        for other in modules.read_text().split():  # what they import is ready in the next, but for our own
            if other.split(".")[0] not in ("steelyard", "tests", "__main__", "conftest"):
                with contextlib.suppress(Exception):
                    importlib.import_module(other)
        if outcome(lambda: pytest_main(tests, folder, Collected(in_functions)), 36000)[0]:
            sys.exit(f"the tests of {module} fail as it is, collected once and run in a forked process")
        survivors, others = json.loads(results.read_text())
        for number, what in mutants():
            if number in others:

                def mutated():
                    imported_instead(name, path, tree)
                    return pytest_main(tests, folder)

                survivors += survives(number, what, mutated)
    killed = total - survivors
    part = "" if total == every else f" of {every}"
    print(f"{module}: {total}{part} mutants, {killed} killed, {killed / total:.0%}")
    sys.exit(killed < ENOUGH * total)


if __name__ == "__main__":
    main()
