"""Pages from templates: everything is escaped but the figures, scripts and data blocks, which are ours."""

import base64
import hashlib
from functools import partial
from importlib.resources import files

import jinja2
from markupsafe import Markup

from steelyard._common.files import to_json
from steelyard.report.words import marked


def render_template(template: str, **values: object) -> str:
    """Return the text of a page; a value that a template needs and does not get is an error.

    A template may call two functions beside its values. ``script("page.js")`` puts that file of the folder
    ``templates`` into the page, and its SHA-256 into the content security policy: no other script runs.
    ``data("id", value)`` puts plain numbers, strings and lists there, as JSON that a script reads by that id.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("steelyard.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["format"] = lambda pattern, value: pattern % value
    environment.filters["marked"] = marked  # code between backticks
    hashes: list[str] = []  # base.html.j2 fills its body first and writes the policy after
    text: str = environment.get_template(template).render(
        **values, script=partial(_script, hashes), script_hashes=hashes, data=_data
    )
    return text


def _script(hashes: list[str], name: str) -> Markup:
    """Return a script of ours as an element, and note its hash for the policy."""
    text = files("steelyard.report").joinpath("templates", name).read_text(encoding="utf-8")
    if "</script" in text or "<!--" in text:
        raise ValueError(f"{name} must not hold </script or <!--, where its element would end or change")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    source = f"'sha256-{digest}'"
    if source not in hashes:
        hashes.append(source)
    return Markup(f"<script>{text}</script>")


def _data(name: str, value: object) -> Markup:
    """Return a block of data: JSON in which no sign could end the element or begin another."""
    text = to_json(value, indent=None).replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
    return Markup('<script type="application/json" id="{}">{}</script>').format(name, Markup(text))
