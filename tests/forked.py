"""A `steelyard` program that starts at once: every call is a fork of one process that has imported what commands need.

From there on it is what a user runs. ``python -m tests.forked SOCKET`` is that one process. The program hands it the
arguments, the folder, the environment and the three streams, and ends as the fork ends.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as one:
    one.connect({place!r})
    told = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(one, [len(told).to_bytes(4, "big")], [0, 1, 2])
    one.sendall(told)
    sys.exit(one.recv(1)[0])
"""


@contextlib.contextmanager
def program():
    """Give the path of the program."""
    with tempfile.TemporaryDirectory(prefix="forked-") as folder:
        place, file = f"{folder}/socket", Path(folder, "steelyard")
        command = [sys.executable, "-m", "tests.forked", place]
        # It ends when this process closes its standard input, and so when this process ends.
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout.readline() == b"ready\n", "the process to be forked did not start"
            file.write_text(PROGRAM.format(python=sys.executable, place=place))
            file.chmod(0o755)
            yield file
            server.stdin.close()


def import_all():
    """Import what commands need, once for all of them; compute nothing, as threads do not survive a fork."""
    import datasets  # noqa: F401
    import matplotlib.backends.backend_svg  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch

    torch.set_num_threads(1)
    import steelyard.claims
    import steelyard.commands.audit
    import steelyard.commands.forecast
    import steelyard.experiments
    import steelyard.training.trainer  # noqa: F401 (Lightning and torchmetrics, which commands import late)


def run(arguments):
    """Run a command, and end this process as it ends, but at once: nothing is torn down."""
    from steelyard.cli import main

    _end_with(main, arguments)


def done(function, *arguments, seconds=300):
    """Call a function in a fork of this process; return what a program that does nothing else would give."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as wrong:
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(seconds)
                os.dup2(out.fileno(), 1)
                os.dup2(wrong.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                _end_with(function, *arguments)
            finally:
                os._exit(70)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (out, wrong):
            file.seek(0)
        return subprocess.CompletedProcess(function.__name__, code, out.read(), wrong.read())


def _end_with(function, *arguments):
    """Call a function, and end this process as a program ends that does nothing else."""
    code = 0
    try:
        function(*arguments)
    except SystemExit as ended:
        code = (ended.code or 0) if isinstance(ended.code, int | None) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve(place):
    import_all()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print("ready", flush=True)
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            one, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                _answer(one)
            one.close()


def _answer(one):
    """Run the command in a fork of its own, and send back its exit code as a shell would give it."""
    head, streams, _, _ = socket.recv_fds(one, 4, 3)
    with one.makefile("rb") as said:
        arguments, folder, environment = json.loads(said.read(int.from_bytes(head, "big")))
    command = os.fork()
    if command:
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        one.sendall(bytes([code if code >= 0 else 128 - code]))
        os._exit(0)
    one.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, "w" if number else "r") for number in range(3))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    run(arguments)


if __name__ == "__main__":
    serve(sys.argv[1])
