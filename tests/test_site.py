"""The site of docs/: its navigation and API reference are whole, and it opens without network."""

import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock

from steelyard.balance import implied_weights, mean_confusion
from steelyard.forecasting import fit_head
from tests.report.browser import opened
from tests.report.test_behaviour import violations

ROOT = Path(__file__).parents[1]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load(ROOT / "docs" / "tools" / "hooks.py")


def pages_of(part):
    if isinstance(part, str):
        return [part]
    children = part.values() if isinstance(part, dict) else part
    return [page for child in children for page in pages_of(child)]


def test_every_page_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    named = pages_of(nav)
    assert len(named) == len(set(named)), "a page is named twice"
    ours = {page for page in named if not page.startswith(hooks.OUTSIDE)}
    assert ours == {path.name for path in (ROOT / "docs").glob("*.md")} | {"findings/README.md"}


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {there for _, there in hooks.links_of(index, "docs/index.md")}
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"docs/index.md"}
    assert pages - linked == set()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_of_the_repository_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [link for link, there in hooks.links_of(text, page) if not (ROOT / there).exists()] == []


@pytest.mark.parametrize("module", [name for name in hooks.API if "integrations" not in name])
def test_api_page_has_every_public_name(module):
    names = importlib.import_module(module).__all__
    text = hooks.api_page(module)
    missing = [name for name in names if f"[`{name}`][{module}.{name}]" not in text]
    assert missing == []


def test_every_integration_has_an_api_page():
    import steelyard.integrations

    found = {module.name for module in pkgutil.iter_modules(steelyard.integrations.__path__)}
    assert {f"steelyard.integrations.{name}" for name in found} == {
        name for name in hooks.API if "integrat" in name
    }
    assert hooks.public_names("steelyard.integrations.boosting") == [
        "audit_boosting",
        "margins",
        "Objective",
        "objective",
    ]


def test_a_link_leads_from_the_site_where_it_led_in_the_repository():
    text = "[a](../SECURITY.md) [b](audit.md#options) [c](findings/README.md) [d](https://x.org/y) [e](#here)"
    assert hooks.moved(text, "glossary.md") == text.replace("../SECURITY.md", "project/SECURITY.md")
    assert (
        hooks.moved("[a](docs/audit.md) [b](LICENSE)", "project/CONTRIBUTING.md")
        == "[a](../audit.md) [b](LICENSE)"
    )


def test_headings_between_marks_become_tabs():
    text = "before\n<!-- tabs -->\n### torch\n\none\n\n### jax\n\ntwo\n<!-- /tabs -->\nafter\n"
    assert (
        hooks.TABS.sub(hooks.tabbed, text) == 'before\n=== "torch"\n\n    one\n\n=== "jax"\n\n    two\n\nafter\n'
    )


# ---- the built site


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, built once for all processes of a run."""
    here = tmp_path_factory.getbasetemp()
    shared = here.parent if "PYTEST_XDIST_WORKER" in os.environ else here
    out, built = shared / "site", shared / "site.built"
    with FileLock(shared / "site.lock"):
        if not built.exists():
            command = [sys.executable, "-m", "properdocs", "build", "--strict", "--config-file", "mkdocs.yml"]
            environment = {key: value for key, value in os.environ.items() if key != "MIKE_DOCS_VERSION"}
            done = subprocess.run(
                [*command, "--site-dir", out], cwd=ROOT, capture_output=True, text=True, env=environment
            )
            assert done.returncode == 0, done.stderr[-2000:]
            built.touch()
    return out


@pytest.mark.slow
def test_nothing_on_the_site_comes_from_elsewhere(site):
    fetched = re.compile(
        r'<(?:script|img|iframe|source)[^>]*\ssrc="(?!data:)(\w+:)?//|<link[^>]*\shref="(\w+:)?//|@import|url\(\s*["\']?(\w+:)?//'
    )
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 80
    assert [page.name for page in pages if fetched.search(page.read_text(encoding="utf-8"))] == []


@pytest.mark.slow
@pytest.mark.parametrize("module", hooks.API)
def test_api_reference_documents_every_name(site, module):
    html = (site / "api" / f"{module}.html").read_text(encoding="utf-8")
    names = hooks.public_names(module)
    assert names
    missing = [name for name in names if f'id="{module}.{name}"' not in html]
    assert missing == []
    roles = re.findall(r":(?:math|func|class|meth|attr|data):", html)
    assert roles == [], "a role of Sphinx is shown as it is written"
    assert "arithmatex" not in html, "a formula was not turned into MathML"


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize(
    "page", ["index", "start", "audit-in-five-lines", "theory", "losses", "api/steelyard.losses"]
)
def test_page_opens_from_a_folder(site, page, width):
    path = site / f"{page}.html"
    with opened(path, width, dark=width == 390) as (ask, said):
        assert ask("document.documentElement.scrollWidth - window.innerWidth") <= 0, "scrolls sideways"
        assert ask("document.querySelector('h1').innerText.length") > 0
        assert (
            ask("performance.getEntriesByType('resource').filter(e => !/^(file|data):/.test(e.name)).length") == 0
        )
        assert said == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("page", ["index", "start", "theory", "losses"])
def test_axe_finds_nothing_on_the_main_pages(site, page, dark):
    """The rules of WCAG; what axe-core only advises is left to the theme."""
    assert violations(site / f"{page}.html", 1400, dark, tags=["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]) == []


@pytest.mark.slow
def test_the_copy_button_takes_statements_alone(site):
    taken = """() => new Promise((done) => {
        document.addEventListener("copy", () => done(document.activeElement.value || getSelection().toString()), { once: true });
        const code = [...document.querySelectorAll("pre > code")].find((one) => one.textContent.includes(">>> "));
        code.closest("pre").querySelector("[data-clipboard-target]").click();
    })"""
    with opened(site / "start.html") as (ask, said):
        session = ask(
            "[...document.querySelectorAll('pre > code')].map(e => e.textContent).find(t => t.includes('>>> '))"
        )
        found = ask(lambda p: p.evaluate(taken))
        assert said == []
    statements = [line[4:] for line in session.splitlines() if line[:3] in (">>>", "...")]
    assert len(statements) < len(session.splitlines()), "the session must have answers"
    assert found.splitlines() == statements
    compile(found, "copied", "exec")


@pytest.mark.slow
def test_search_finds_without_a_server(site):
    def search(page):
        page.locator("input.md-search__input").click()
        page.keyboard.type("implied weights")
        page.wait_for_selector(".md-search-result__item", timeout=20_000)
        return page.locator(".md-search-result__item").all_inner_texts()

    with opened(site / "index.html") as (ask, said):
        assert any("mplied weights" in text for text in ask(search))
        assert said == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("powers", "spread"), [((0, 0, 0), 0.8), ((0, 0, 1), 0.8), ((-0.5, 0.1, 0.6), 0.4), ((1.5, -1, 0.3), 1.4)]
)
def test_playground_computes_what_python_does(site, powers, spread):
    drag = f"""(() => {{
        const inputs = [...document.querySelectorAll('#playground input')];
        [{", ".join(map(str, powers))}, {spread}].forEach((value, i) => {{
            inputs[i].value = value; inputs[i].dispatchEvent(new Event('input')); }});
        const shown = playground.shown;
        return {{...shown.state, points: shown.points(), logits: shown.logits()}}; }})()"""
    with opened(site / "theory.html") as (ask, said):
        found = ask(drag)
        assert said == []
    rows = torch.tensor(found["points"], dtype=torch.float64)
    features, target = rows[:, :2], rows[:, 2].long()
    weights = torch.tensor(found["weights"], dtype=torch.float64)
    assert torch.allclose(weights.log10(), torch.tensor(powers, dtype=torch.float64), atol=1e-9)

    P, counts = mean_confusion(torch.tensor(found["logits"], dtype=torch.float64), target, link="softmax")
    assert torch.allclose(torch.tensor(found["P"], dtype=torch.float64), P, atol=1e-12), "another mean confusion"
    implied = implied_weights(P, counts).weights
    assert torch.allclose(torch.tensor(found["implied"], dtype=torch.float64), implied, rtol=1e-6), (
        "other implied weights"
    )
    assert torch.allclose(implied, torch.tensor(found["stated"], dtype=torch.float64), rtol=1e-6), (
        "the fit is no optimum"
    )
    head = fit_head(features, target, class_weights=weights, weight_decay=5e-4, tolerance=1e-10)
    fitted, _ = mean_confusion(head.logits(features), target, link="softmax")
    assert torch.allclose(fitted, P, atol=1e-6), "steelyard.forecasting fits another model"
    right = (head.logits(features).argmax(1) == target).double()
    recall = torch.stack([right[target == k].mean() for k in range(3)])
    assert torch.allclose(torch.tensor(found["recall"], dtype=torch.float64), recall, atol=1e-12), "other recalls"
