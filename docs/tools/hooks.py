"""What the site makes of the pages of docs/: links that hold in the repository hold there, and the API pages.

The pages are written for readers of the repository first. Four of their habits are turned into those of a site:
links to files outside docs/, which are copied, Python with prompts, headings between two `tabs` marks,
and the words of the glossary.
"""

import ast
import os
import posixpath
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
OUTSIDE = "project/"
"""Where the site has the files that stand outside docs/."""

API = {
    "steelyard": "What `import steelyard` gives: losses, weights, audits, probabilities and decisions.",
    "steelyard.losses": "The losses as modules, the heads that own their loss, and a cosine head.",
    "steelyard.losses.functional": "The losses as functions of logits and target.",
    "steelyard.balance": "Mean confusion, laws, ledgers and implied weights.",
    "steelyard.auditing": "What an audit returns, and what watches a training.",
    "steelyard.forecasting": "What other class weights would do.",
    "steelyard.integrations.sklearn": "For scikit-learn: `pip install 'steelyard[sklearn]'`.",
    "steelyard.integrations.boosting": "For XGBoost, LightGBM and CatBoost: `pip install 'steelyard[boosting]'`.",
    "steelyard.integrations.huggingface": "For Hugging Face's Trainer: `pip install 'steelyard[transformers]'`.",
    "steelyard.integrations.lightning": "For Lightning: `pip install 'steelyard[lightning]'`.",
    "steelyard.integrations.skorch": "For skorch: `pip install 'steelyard[skorch]'`.",
    "steelyard.integrations.skore": "For skore: `pip install 'steelyard[skore]'`.",
    "steelyard.integrations.jax": "For JAX: `pip install 'steelyard[jax]'`.",
}
"""The modules of the API reference, each with a line on it."""

LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=[)#])")
PROMPTS = re.compile(r"^( *)```python\n(?= *>>> )", re.MULTILINE)
TABS = re.compile(r"^<!-- tabs -->\n(.*?)^<!-- /tabs -->\n", re.MULTILINE | re.DOTALL)
WORD = re.compile(r"^\*\*(.+?)\.\*\* ", re.MULTILINE)
MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def file_of(module: str) -> Path:
    path = SOURCE / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@lru_cache
def body_of(module: str) -> list[ast.stmt]:
    """Return the statements of a module; of `steelyard` those of the file that it takes its names from."""
    module = "steelyard._public" if module == "steelyard" else module
    return ast.parse(file_of(module).read_text(encoding="utf-8")).body


def public_names(module: str) -> list[str]:
    """Return the public names of a module, read off its file: `__all__`, or else its own functions and classes."""
    body = body_of(module)
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return sorted(ast.literal_eval(node.value), key=str.lower)
    own = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return sorted((name for name in own if not name.startswith("_")), key=str.lower)


def api_page(module: str) -> str:
    """Return the page of a module: its names in a list, then one after the other."""
    names = public_names(module)
    lines = [f"# {module}", "", API[module], ""]
    lines += [" · ".join(f"[`{name}`][{module}.{name}]" for name in names), ""]
    for name in names:
        lines += [f"::: {module}.{name}", ""]
    return "\n".join(lines)


def page_of(path: str) -> str:
    """Return where the site has a file of the repository, both as paths from their roots."""
    return path.removeprefix("docs/") if path.startswith("docs/") else OUTSIDE + path


def path_of(page: str) -> str:
    """Return where the repository has a page of the site."""
    return page.removeprefix(OUTSIDE) if page.startswith(OUTSIDE) else "docs/" + page


def links_of(text: str, path: str) -> Iterator[tuple[str, str]]:
    """Return the links of a text at a path of the repository that lead to another file: as written, and whole."""
    for found in LINK.finditer(text):
        yield found[0], posixpath.normpath(posixpath.join(posixpath.dirname(path), found[0]))


def moved(text: str, page: str) -> str:
    """Return the text of a page with its links as the site needs them."""
    here = posixpath.dirname(page)

    def to(found: re.Match[str]) -> str:
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path_of(page)), found[0]))
        return posixpath.relpath(page_of(there), here or ".")

    return LINK.sub(to, text)


def tabbed(found: re.Match[str]) -> str:
    """Return headings and what stands below each as tabs."""
    out = []
    for part in re.split(r"^#+ ", found[1], flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        out.append(f'=== "{name}"\n\n' + re.sub(r"^(?=.)", "    ", rest.strip("\n"), flags=re.MULTILINE) + "\n")
    return "\n".join(out) + "\n"


@lru_cache
def mathml(latex: str, display: bool) -> str:
    return str(convert(latex, display="block" if display else "inline"))


def _outside(files: Any) -> set[str]:
    """Return the paths of the files outside docs/ that pages link to, and that such pages link to in turn."""
    found = {"CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"}
    waiting = [*found, *(path_of(file.src_uri) for file in files if file.src_uri.endswith(".md"))]
    while waiting:
        path = waiting.pop()
        for _, there in links_of((ROOT / path).read_text(encoding="utf-8"), path):
            if not there.startswith(("docs/", "..")) and there not in found and (ROOT / there).is_file():
                found.add(there)
                waiting += [there] if there.endswith(".md") else []
    return found


SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme would fetch so that the search works from a folder."""
HERE = "javascripts/offline-search.js"
"""What does it without network."""


# ---- what the site's builder calls


def on_config(config: Any) -> Any:
    """Fill in the parts of the navigation that the repository knows by itself."""
    parts = {title: children for part in config.nav for title, children in part.items()}
    parts["Findings"] += [f"findings/{path.name}" for path in sorted((ROOT / "docs" / "findings").glob("SY*.md"))]
    parts["API reference"] += [{module.removeprefix("steelyard."): f"api/{module}.md"} for module in API]
    if os.environ.get("MIKE_DOCS_VERSION"):  # a page from a folder has no list of versions to ask for
        config.extra["version"] = {"provider": "mike"}
    return config


def on_files(files: Any, config: Any) -> Any:
    kind = type(next(iter(files)))
    for path in sorted(_outside(files)):
        files.append(kind.generated(config, page_of(path), abs_src_path=str(ROOT / path)))
    for module in API:
        files.append(kind.generated(config, f"api/{module}.md", content=api_page(module)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri.startswith("api/"):
        return markdown
    text = TABS.sub(tabbed, moved(markdown, page.file.src_uri))
    if page.file.src_uri == "glossary.md":
        text = WORD.sub(r"## \1\n\n", text)
    return PROMPTS.sub(r"\1```pycon\n", text)


def on_page_content(html: str, **_: Any) -> str:
    def shown(found: re.Match[str]) -> str:
        latex = found[2].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
        return mathml(latex.strip(), found[1] == "div")

    return MATH.sub(shown, html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    return output.replace(SHIM, posixpath.relpath(HERE, posixpath.dirname(page.file.src_uri) or "."))


def on_post_template(output: str, **_: Any) -> str:
    return output.replace(SHIM, HERE)
