"""Compiles the C kernels into the package, where there is a C compiler; without one the package is pure Python."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("src/steelyard/kernels/lgl_inr/native.c")
# No -ffast-math: infinities and NaN must stay what they are.
FLAGS = ["-O3", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]


class NativeKernels(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        source = Path(self.root) / SOURCE
        library = source.with_name("liblgl_inr.so")
        unfinished = library.with_suffix(f".{os.getpid()}.tmp")
        library.unlink(missing_ok=True)  # of an older source
        if compiler is None:
            self.app.display_warning("no C compiler: steelyard goes without its compiled CPU kernels")
            return
        command = [*compiler.split(), *FLAGS, str(source), "-o", str(unfinished), "-lm"]
        for more in ([], ["-DNO_CLONES"]):  # versions for newer processors, where compiler and linker know how
            try:
                subprocess.run([*command, *more], check=True, capture_output=True, text=True)
                break
            except (OSError, subprocess.CalledProcessError) as error:
                reason = getattr(error, "stderr", None) or error
        else:
            self.app.display_warning(f"steelyard goes without its compiled CPU kernels: {reason}")
            unfinished.unlink(missing_ok=True)
            return
        unfinished.replace(library)
        build_data["pure_python"] = False
        build_data["artifacts"].append(f"/{library.relative_to(self.root).as_posix()}")
        # Plain C: bound to the platform, not to a version of Python.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
