"""Compiles the C kernels into the package, where there is a C compiler; without one the package is pure Python."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = "src/steelyard/kernels/*/native.c"  # each becomes lib<folder>.so beside it
# No -ffast-math: infinities and NaN must stay what they are.
FLAGS = ["-O3", "-fPIC", "-shared", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]


class NativeKernels(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        found = sorted(Path(self.root).glob(SOURCES))
        sources = {source: source.with_name(f"lib{source.parent.name}.so") for source in found}
        for library in sources.values():
            library.unlink(missing_ok=True)  # of an older source
        if compiler is None:
            self.app.display_warning("no C compiler: steelyard goes without its compiled CPU kernels")
            return
        built = [library for source, library in sources.items() if self._compile(compiler, source, library)]
        if not built:
            return
        build_data["pure_python"] = False
        build_data["artifacts"] += [f"/{library.relative_to(self.root).as_posix()}" for library in built]
        # Plain C: bound to the platform, not to a version of Python.
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def _compile(self, compiler: str, source: Path, library: Path) -> bool:
        """Compile a kernel and return whether that worked."""
        unfinished = library.with_suffix(f".{os.getpid()}.tmp")
        command = [*compiler.split(), *FLAGS, str(source), "-o", str(unfinished), "-lm"]
        for more in ([], ["-DNO_CLONES"]):  # versions for newer processors, where compiler and linker know how
            try:
                subprocess.run([*command, *more], check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                reason = getattr(error, "stderr", None) or error
            else:
                unfinished.replace(library)
                return True
        self.app.display_warning(f"steelyard goes without {library.name}, compiled code for CPUs: {reason}")
        unfinished.unlink(missing_ok=True)
        return False
