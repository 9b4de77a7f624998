"""Docstrings as Markdown: what Sphinx calls roles becomes links and formulas. griffe loads this."""

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


class Roles(griffe.Extension):  # type: ignore[misc]
    """Turns the docstrings of all that griffe loads into Markdown."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring:
            scope = obj.path if obj.is_class or obj.is_module else obj.parent.path
            obj.docstring.value = markdown(obj.docstring.value, scope)
