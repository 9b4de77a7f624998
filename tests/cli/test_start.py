"""How the command starts: what it imports, what stops it, what it tells of other libraries."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import steelyard
from steelyard.cli.main import _importer
from tests.helpers import run_command


def _python(code, *arguments, path=None):
    """Run code in a process of its own, with a folder in front of what it can import."""
    found = [str(path)] if path is not None else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*found, *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, timeout=120
    )


MAIN = "from steelyard.cli import main; main()"


@pytest.mark.parametrize("arguments", [["--version"], ["compare", "--help"], [], ["audit", "--help"]])
def test_help_does_not_import_torch(arguments, tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    (tmp_path / "numpy.py").write_text("raise RuntimeError('numpy was imported')")
    done = _python(MAIN, *arguments, path=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "steelyard" in done.stdout


def test_a_wrong_option_does_not_import_torch_either(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    done = _python(MAIN, "compare", "--lr", "0.1", path=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "steelyard: no such option '--lr' (did you mean '--learning-rates'?); --help lists them\n"
    )


@pytest.mark.parametrize(
    ("package", "number"), [("click", signal.SIGINT), ("torch", signal.SIGINT), ("torch", signal.SIGTERM)]
)
def test_a_signal_while_importing_is_one_line_and_its_exit_code(package, number, tmp_path):
    (tmp_path / f"{package}.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(60)\n"
    )
    done = _python(MAIN, "compare", "--losses", "softmax", path=tmp_path)
    assert done.returncode == 128 + number
    assert done.stderr == "steelyard: stopped; the same command with --resume goes on\n"


# A signal when the import of a module starts: what catches everything around it must not go on without it.
INTERRUPTED = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from steelyard.cli import main
main(["audit", sys.argv[2]])
"""


@pytest.mark.parametrize(
    "module",
    [
        "steelyard.cli.main",
        "click",
        "numpy",
        pytest.param("numpy.linalg", marks=pytest.mark.slow),
        pytest.param("torch.nn", marks=pytest.mark.slow),
        pytest.param("steelyard.auditing", marks=pytest.mark.slow),
        pytest.param("torchmetrics", marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_a_real_package_is_imported_stops_at_once(module, tmp_path):
    np.savez(tmp_path / "p.npz", logits=np.eye(4, 2), target=np.arange(4) % 2)
    done = _python(INTERRUPTED, module, str(tmp_path / "p.npz"))
    assert done.returncode == 130, done.stderr
    *notes, last = done.stderr.splitlines()
    assert last in ("steelyard: stopped; the same command goes on", "steelyard: stopped")
    assert not any("Traceback" in note or "rror" in note for note in notes), done.stderr
    assert done.stdout == ""


def test_a_signal_during_the_last_import_is_not_lost_where_little_is_left_to_do():
    code = """
import signal, sys
import steelyard.cli
cli = sys.modules["steelyard.cli.main"]
def run(given, resume):
    cli._send_again(signal.SIGINT)
cli._run = run
cli.main([])
"""
    done = _python(code)
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    assert done.stderr == "steelyard: stopped; the same command goes on\n"


def test_the_importing_module_is_found_through_the_imports_it_makes(tmp_path, monkeypatch):
    (tmp_path / "seen_by_import.py").write_text("import seen_inside\n")
    (tmp_path / "seen_inside.py").write_text("import sys\nframe = sys._getframe()\n")
    monkeypatch.syspath_prepend(tmp_path)
    import seen_by_import

    assert _importer(seen_by_import.seen_inside.frame) == __name__
    assert _importer(sys._getframe()) != __name__  # it runs, and imports nothing


@pytest.mark.parametrize("arguments", [["--help"], ["audit", "--wrong"], ["adit"]])
def test_help_and_wrong_words_leave_torch_alone(arguments):
    code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, 'numpy' in sys.modules))\n"
    done = _python(code + MAIN, *arguments)
    assert done.returncode == (0 if arguments == ["--help"] else 2)
    assert done.stdout.endswith("False False\n"), done.stdout[-100:]


def test_public_names_import_neither_torchmetrics_nor_the_compiler():
    code = (
        "import sys, torch; before = set(sys.modules)\nfrom steelyard import *\nimport steelyard.balance\n"
        "steelyard.balance.implied_weights(torch.eye(2).double() / 2 + 0.25, class_counts=torch.ones(2))\n"
        "print(sorted({'torchmetrics', 'torch._dynamo', 'sympy', 'filelock'} & (set(sys.modules) - before)))\n"
        "steelyard.balance.MeanConfusion\nprint('torchmetrics' in sys.modules)"
    )
    done = _python(code)
    assert (done.stdout, done.stderr) == ("[]\nTrue\n", "")


def test_a_missing_package_of_the_command_is_one_sentence(tmp_path):
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(\"No module named 'click'\")")
    done = _python(MAIN, "--help", path=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "steelyard: the command needs a package that cannot be imported (No module named 'click'): "
        "pip install 'steelyard[cli]'\n"
    )


def test_the_command_alone_prints_its_help(capsys):
    assert run_command(capsys) == run_command(capsys, "--help")
    code, out, err = run_command(capsys)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: steelyard [OPTIONS] COMMAND")


def test_the_shell_completes_commands_and_options(monkeypatch, capsys):
    monkeypatch.setenv("_STEELYARD_COMPLETE", "bash_complete")
    for words, expected in (("steelyard au", "plain,audit\n"), ("steelyard audit --pos", "plain,--pos-weights\n")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        assert run_command(capsys) == (0, expected, "")


def test_warnings_are_one_line_and_those_of_other_libraries_are_none():
    code = (
        "import sys, warnings, steelyard.cli.commands as c\n"
        "def warn(*_, **__):\n"
        "    for module in ('steelyard.posterior', 'torch.serialization'):\n"
        "        warnings.warn_explicit(f'two\\nlines of {module}', UserWarning, 'file.py', 7, module=module)\n"
        "c.commands.main = warn\n" + MAIN
    )
    done = _python(code)
    assert (done.returncode, done.stderr) == (0, "steelyard: warning: two lines of steelyard.posterior\n")


def test_the_losses_do_not_import_the_compiler():
    """It takes longer to import than torch does."""
    done = _python("import sys, steelyard.losses; print('torch._dynamo' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_command_that_may_train_does_not_import_lightning_before_it_does():
    """It takes longer to import than all the rest, and so do the libraries that it imports."""
    code = "import sys, steelyard.claims, steelyard.commands.advise, steelyard.experiments\n"
    done = _python(
        code + "print(sorted({'lightning', 'scipy.stats', 'torchmetrics', 'transformers'} & set(sys.modules)))"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_public_names_are_imported_when_they_are_asked_for(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    assert _python("import steelyard; steelyard.__version__", path=tmp_path).returncode == 0
    assert "torch was imported" in _python("import steelyard; steelyard.audit", path=tmp_path).stderr
    assert set(steelyard.__all__) <= set(dir(steelyard))
    assert steelyard.losses.SoftmaxLoss is steelyard.SoftmaxLoss
    assert steelyard.audit.__module__ == "steelyard.auditing.audit"
    names = {}
    exec("from steelyard import *", names)
    assert names.keys() >= set(steelyard.__all__)
    with pytest.raises(AttributeError, match="module 'steelyard' has no attribute 'sofmax'"):
        steelyard.sofmax  # noqa: B018
