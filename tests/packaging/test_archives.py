"""What `python -m build` makes: a wheel that is the package and its compiled kernel, and an archive of the sources."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import steelyard

ROOT = Path(__file__).parents[2]
FRAGMENTS = (
    "README.md",
    "CITATION.cff",
    "LICENSE",
    "SECURITY.md",
    "CHANGELOG.md",
    "pyproject.toml",
    "hatch_build.py",
)
COMPILED = {f"steelyard/kernels/{name}/lib{name}.so" for name in ("class_sums", "lgl_inr", "log_partition")}


def test_citation_is_of_this_version_and_cites_the_paper():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == steelyard.__version__
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= cited.keys()
    (paper,) = cited["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Li", "Li", "Pan", "Zhu"]
    assert paper["url"].rpartition("/")[2] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_issue_forms_have_what_the_site_asks_for():
    forms = {
        path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")
    }
    assert forms.keys() == {"bug", "wrong-answer", "new-loss", "config"}
    for name, form in forms.items():
        if name == "config":
            continue
        assert {"name", "description", "body"} <= form.keys(), name
        names = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert len(set(names)) == len(names), name
        assert all(isinstance(one, str) and re.fullmatch(r"[\w-]+", one) for one in names), name


def test_hooks_run_what_the_development_tools_install():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    tools = (ROOT / "pyproject.toml").read_text().partition("dev = [")[2].partition("]\n")[0]
    for hook in hooks:
        program = hook["entry"].split()[0].removeprefix(".venv/bin/")
        assert {"ruff": '"ruff', "lint-imports": '"import-linter'}[program] in tools, hook["id"]


def test_the_oldest_versions_that_are_tested_are_the_least_that_are_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tables = [each for each in extras["train"] if each.startswith(("pandas", "pyarrow"))]
    allowed = [*project["dependencies"], *extras["cli"], *extras["sklearn"], *tables]
    tested = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    least = dict(one.split("==") for one in tested if not one.startswith("#"))
    for each in allowed:
        name, version = each.split(">=")
        assert Version(least.pop(name)) == Version(version), name
    assert not least


@pytest.mark.skipif(sys.platform != "linux", reason="no glibc")
def test_kernels_need_no_newer_glibc_than_wheels_are_named_for():
    """One function more of the C library's can ask for a newer one: exp of doubles asks for 2.29, expf for 2.27."""
    libraries = [*Path(steelyard.__file__).parent.glob("kernels/*/lib*.so")]
    if not libraries:
        pytest.skip("installed without a C compiler")
    symbols = re.findall(rb"GLIBC_(\d+)\.(\d+)", b"".join(one.read_bytes() for one in libraries))
    named = re.search(r"manylinux_(\d+)_(\d+)_x86_64", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert max((int(a), int(b)) for a, b in symbols) <= (int(named[1]), int(named[2]))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build both archives in a copy of the sources, with the tools that are installed."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("dist")
    for name in ("src", *FRAGMENTS):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / name, copy)
    (copy / "tests").mkdir()
    (copy / "tests" / "test_none.py").write_text("")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
def test_the_wheel_is_the_package_and_its_kernel(built):
    (wheel,) = built.glob("*.whl")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        info = f"steelyard-{steelyard.__version__}.dist-info"
        told = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        entries = archive.read(f"{info}/entry_points.txt").decode()
    sources = {
        path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src/steelyard").rglob("*") if path.is_file()
    }
    sources = {name for name in sources if "__pycache__" not in name and not name.endswith(".so")}
    assert sources <= names
    compiled = {name for name in names if name.endswith(".so")}
    assert compiled == (COMPILED if compiler else set())
    assert wheel.name.endswith("-py3-none-any.whl") == (compiler is None)
    assert all(name.startswith(("steelyard/", info)) for name in names), "something else is in the wheel"
    assert not any("test" in name.rpartition("/")[2] for name in names), "tests are in the wheel"
    assert (told["Name"], told["Version"], told["Requires-Python"]) == (
        "steelyard",
        steelyard.__version__,
        ">=3.11",
    )
    assert told["License-Expression"] == "MIT"
    assert "steelyard = steelyard.cli:main" in entries


@pytest.mark.slow
def test_the_source_archive_has_what_a_build_and_a_reader_need(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    kernels = {f"src/{name.rpartition('/')[0]}/native.c" for name in COMPILED}
    assert {*FRAGMENTS, *kernels, "src/steelyard/kernels/vectors.h", "tests/test_none.py"} <= names
    assert not any(name.endswith((".so", ".pyc")) for name in names)
