"""Docstrings as Markdown: what Sphinx calls roles becomes links and formulas. griffe loads this extension."""

import re
from typing import Any

import griffe

MATH_BLOCK = re.compile(r"^( *)\.\. math::[ \n]*(.*?)(?=\n *\n|\Z)", re.MULTILINE | re.DOTALL)
MATH = re.compile(r":math:`([^`]*)`")
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)  # griffe knows the plural alone
REFERENCE = re.compile(r":(?:class|func|meth|attr|data|mod|exc):`(~?)([^`]*)`")


def markdown(text: str, scope: str = "") -> str:
    r"""Return a docstring as Markdown.

    Example:
        >>> markdown("Return :math:`p`; see :func:`~steelyard.audit`.")
        'Return \\(p\\); see <autoref optional identifier="steelyard.audit"><code>audit</code></autoref>.'
    """

    def block(found: re.Match[str]) -> str:
        lines = " ".join(line.strip() for line in found[2].splitlines())
        return f"{found[1]}\\[{lines}\\]"

    def link(found: re.Match[str]) -> str:
        name = found[2].removeprefix(".")
        path = name if "." in name else f"{scope}.{name}"
        shown = name.rpartition(".")[2] if found[1] else name
        return f'<autoref optional identifier="{path}"><code>{shown}</code></autoref>'

    text = EXAMPLE.sub("Examples:", MATH_BLOCK.sub(block, text))
    return REFERENCE.sub(link, MATH.sub(r"\\(\1\\)", text))


class Package(griffe.Extension):  # type: ignore[misc]
    """Turns docstrings into Markdown, and takes `steelyard.auditing.audit` for the function, not for its file."""

    def on_package(self, *, pkg: Any, **_: Any) -> None:
        modules = [pkg]
        for module in modules:
            modules += [one for one in module.modules.values() if not one.is_alias]
        _translate(pkg)
        aliases = [one for module in modules for one in module.members.values() if one.is_alias]
        for module in modules:
            for name, path in module.imports.items():
                file = module.members.get(name)
                if file is None or file.is_alias or not file.is_module or not path.startswith(f"{file.path}."):
                    continue
                for alias in aliases:  # they lead to the file or through it, and it is out of the way from here on
                    if alias.target_path.startswith(f"{file.path}."):
                        alias.target = file[alias.target_path.removeprefix(f"{file.path}.")]
                    elif alias.target_path == file.path or (alias.resolved and alias.final_target is file):
                        alias.target = file[name]
                module.members[name] = griffe.Alias(name, file[name], parent=module)


def _translate(one: Any) -> None:
    """Turn the docstrings of an object, and of all that it holds, into Markdown."""
    if one.docstring:
        one.docstring.value = markdown(one.docstring.value, one.path if one.members else one.parent.path)
    for member in one.members.values():
        if not member.is_alias:
            _translate(member)
