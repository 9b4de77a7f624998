"""The public names and their signatures are those of tests/api.txt.

python -m tests.test_api       # after a change that is meant: writes them there
"""

import difflib
import importlib
import inspect
import re
from pathlib import Path

import pytest

FILE = Path(__file__).with_name("api.txt")
MODULES = (
    "steelyard",
    "steelyard.auditing",
    "steelyard.balance",
    "steelyard.data",
    "steelyard.deciding",
    "steelyard.forecasting",
    "steelyard.integrations.boosting",
    "steelyard.integrations.huggingface",
    "steelyard.integrations.jax",
    "steelyard.integrations.lightning",
    "steelyard.integrations.sklearn",
    "steelyard.integrations.skore",
    "steelyard.integrations.skorch",
    "steelyard.losses",
)


def _signature(found):
    """Return the arguments and their defaults: what code that calls it depends on. Types are mypy's business."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # a type, a number
        return ""
    plain = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    told = str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    return re.sub(r"<(?:function|class) '?([\w.]*)[^<>]*>", r"<\1>", told)


def _own(module):
    """Return the public functions and classes that a module without __all__ defines itself."""
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__
    ]


def _members(owner, name):
    """Yield what a class has of its own under a public name, a line each."""
    for key, member in sorted(vars(owner).items()):
        if key.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"    {name}.{key}: property"
        elif callable(member) or isinstance(member, classmethod | staticmethod):
            yield f"    {name}.{key}{_signature(getattr(owner, key))}"


def public_names(module):
    """Return the public names of a module with their arguments, a line each."""
    found = importlib.import_module(module)
    lines = [module]
    for name in sorted(getattr(found, "__all__", None) or _own(found)):
        thing = getattr(found, name)
        kind = "class " if inspect.isclass(thing) else "module " if inspect.ismodule(thing) else ""
        lines.append(f"  {kind}{name}{'' if kind == 'module ' else _signature(thing)}")
        if inspect.isclass(thing):
            lines.extend(_members(thing, name))
    return lines


def of_file():
    """Return the names that stand in the file, by module."""
    sections = FILE.read_text(encoding="utf-8").strip().split("\n\n")
    return {lines[0]: lines for lines in (section.splitlines() for section in sections)}


def test_the_file_has_every_module():
    assert tuple(of_file()) == MODULES


@pytest.mark.parametrize(
    "module", [pytest.param(name, marks=[pytest.mark.slow] if "integrations" in name else []) for name in MODULES]
)
def test_public_names_and_arguments_are_those_that_people_wrote_code_for(module):
    before, now = of_file()[module], public_names(module)
    changed = "\n".join(difflib.unified_diff(before, now, "tests/api.txt", "now", lineterm="", n=0))
    assert before == now, f"public names have changed; if that is meant, run python -m tests.test_api\n{changed}"


if __name__ == "__main__":
    from steelyard._common.files import write_text

    write_text(FILE, "\n\n".join("\n".join(public_names(module)) for module in MODULES) + "\n")
