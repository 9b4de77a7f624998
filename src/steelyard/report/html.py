"""Pages from templates: everything is escaped but the figures, which are ours."""

import jinja2


def render_template(template: str, **values: object) -> str:
    """Return the text of a page; a value that a template needs and does not get is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("steelyard.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["format"] = lambda pattern, value: pattern % value
    text: str = environment.get_template(template).render(**values)
    return text
