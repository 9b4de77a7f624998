"""The Triton path of LGL-INR: who takes it, the label plan, and, in processes of their own, the kernels."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from steelyard.kernels.lgl_inr import small
from steelyard.kernels.lgl_inr import triton as lgl_inr_triton
from steelyard.kernels.lgl_inr.plan import make_segments
from steelyard.losses.functional import lgl_inr_loss
from tests import forked
from tests.helpers import batch

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


def run_python(*arguments, interpret=False):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT), environment.get("PYTHONPATH", "")])
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


# The kernels -------------------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.slow
def test_kernels_under_the_interpreter():
    child = run_python(
        "-m", "pytest", "tests/kernels/triton_on_device.py", "-p", "no:cacheprovider", interpret=True
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert " passed" in child.stdout


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_on_the_gpu():
    child = run_python("-m", "pytest", "tests/kernels/triton_on_device.py", "-p", "no:cacheprovider")
    assert child.returncode == 0, child.stdout + child.stderr
    assert " passed" in child.stdout


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from steelyard.kernels.lgl_inr import device as kernels

types = dict.fromkeys(["N", "K", "S", "L", "M", "splits", "first"], "i32")
types |= dict(stride="i64", plan="*i32", beta="fp32", shift="fp32")
for dtype, capability, blocks in [("bf16", 80, (8, 128)), ("fp32", 90, (64, 16))]:
    for kernel in (kernels.runs, kernels.join, kernels.statistics, kernels.finish, kernels.gradient):
        for pos_weight in (True, False):  # and bias, or neither
            constants = dict(BLOCK_N=blocks[0], BLOCK_S=2048 // blocks[1], BLOCK_J=blocks[1], VEC=4)
            constants |= dict(DETACH=not pos_weight, LONG=pos_weight)
            if not pos_weight:  # the launcher makes constants of ones
                constants |= dict(pos_weight=None, bias=None, S=1, L=1, M=1, N=1, splits=1, VEC=1)
            constants = {k: v for k, v in constants.items() if k in kernel.arg_names}
            signature = {n: "*" + dtype if n in ("z", "grad", "bias") else types.get(n, "*fp32") for n in kernel.arg_names}
            signature |= dict.fromkeys(constants, "constexpr")
            # Memory of torch's begins at multiples of 16.
            fine = [i for i, n in enumerate(kernel.arg_names) if signature[n][0] == "*"]
            attrs = {(i,): [["tt.divisibility", 16]] for i in fine}
            source = ASTSource(kernel, signature, constexprs=constants, attrs=attrs)
            options = dict(enable_fp_fusion=True)
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            assert compiled.asm["cubin"], kernel
            print(kernel.__name__, dtype, capability)
"""


@pytest.mark.slow
@needs_triton
def test_kernels_compile_for_gpus(tmp_path, monkeypatch):
    """The interpreter accepts what the compiler may not: types that change in a loop, and the like."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    child = run_python("-c", COMPILE)
    assert child.returncode == 0, child.stderr
    assert len(child.stdout.splitlines()) == 20


def _launch():
    os.environ.pop("TRITON_INTERPRET", None)
    lgl_inr_triton.lgl_inr_triton_columns(torch.zeros(2, 3), torch.tensor([0, 1]), None, 1.0, False, -100)


@pytest.mark.slow
@needs_triton
def test_without_a_gpu_the_operators_say_so():
    child = forked.done(_launch)
    assert child.returncode == 1
    assert "RuntimeError: the Triton kernels of lgl_inr_loss need logits on a GPU, got cpu" in child.stderr


# Who takes it ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_package_works_without_triton():
    code = """
import sys
sys.modules["triton"] = None  # the import fails
import torch
from steelyard.losses import LGLINRLoss
logits = torch.zeros(2, 3, requires_grad=True)
LGLINRLoss()(logits, torch.tensor([0, 1])).backward()
assert "steelyard.kernels.lgl_inr.device" not in sys.modules
"""
    child = run_python("-c", code)
    assert child.returncode == 0, child.stderr


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"dtype": torch.float16}, True),
        ({"dtype": torch.bfloat16}, True),
        ({"beta": -30.0}, True),
        ({"beta": 30.1}, False),
        ({"dtype": torch.float64}, False),
        ({"is_cuda": False}, False),
        ({"capability": (7, 5)}, False),
        ({"installed": False}, False),
        ({"launches": False}, False),
        ({"hip": "7.0"}, False),
    ],
)
def test_which_logits_it_takes(monkeypatch, changed, expected):
    case = {
        "dtype": torch.float32,
        "is_cuda": True,
        "beta": 1.0,
        "capability": (9, 0),
        "installed": True,
        "launches": True,
        "hip": None,
    } | changed
    logits = SimpleNamespace(dtype=case["dtype"], is_cuda=case["is_cuda"], device=torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: case["capability"])
    monkeypatch.setattr(torch.version, "hip", case["hip"])
    monkeypatch.setattr(lgl_inr_triton, "_INSTALLED", case["installed"])
    monkeypatch.setattr(lgl_inr_triton, "_launches", lambda: case["launches"])
    assert lgl_inr_triton.takes(logits, case["beta"]) is expected


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there triton starts")
def test_triton_that_does_not_start_is_warned_of_once():
    lgl_inr_triton._starts.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"triton failed to start \(RuntimeError: 0 active drivers"):
        assert not lgl_inr_triton._launches()
    assert not lgl_inr_triton._launches()  # another warning would be an error here


def test_the_loss_goes_where_it_is_taken(monkeypatch):
    logits, target = batch(6, 4, dtype=torch.float32)
    monkeypatch.setattr(small, "takes", lambda logits: False)
    monkeypatch.setattr(lgl_inr_triton, "takes", lambda logits, beta: beta == 2)
    monkeypatch.setattr(lgl_inr_triton, "lgl_inr_triton_columns", lambda logits, *_: logits.new_full((4,), 7.0))
    assert lgl_inr_loss(logits, target, beta=2).item() == 7
    assert lgl_inr_loss(logits, target, beta=1).item() != 7


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_asking_for_the_gpu_breaks_no_graph(monkeypatch):
    def capability(index):
        torch._dynamo.graph_break()
        return (9, 0)

    torch.compiler.reset()
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    ask = torch.compile(lambda x: x + lgl_inr_triton.is_recent(0), backend="eager", fullgraph=True)
    assert ask(torch.zeros(())).item() == 1


@needs_triton
@pytest.mark.filterwarnings("ignore")  # that triton does not start here
def test_starting_triton_breaks_no_graph():
    torch.compiler.reset()
    lgl_inr_triton._starts.cache_clear()
    ask = torch.compile(lambda x: x + lgl_inr_triton._launches(), backend="eager", fullgraph=True)
    assert ask(torch.zeros(())).item() == torch.cuda.is_available()


# The label plan and the division of work ---------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 4, 9, 30])
@pytest.mark.parametrize(
    "labels",
    [
        [0],
        [0, 0, 0],
        [0, 0, 0, 0],
        [3, -100, 0, 3, 1, 3, 0],
        [-100, -100],
        [2, 1, 0, 3, -100],
        [1] * 4 + [-100] * 9 + [2] * 6 + [0] + [3] * 7,
    ],
)
def test_plan_lists_every_class_with_its_rows(labels, classes, monkeypatch):
    monkeypatch.setattr(lgl_inr_triton, "_RUN", 3)
    if max(labels) >= classes:
        labels = [min(y, classes - 1) for y in labels]
    rows = len(labels)
    plan = lgl_inr_triton._plan(torch.tensor(labels), classes, -100)
    sizes = lgl_inr_triton._sizes(rows, classes)
    S = sizes.segments
    assert plan.dtype == torch.int32
    long, several, present, counted, runs = plan[:5].tolist()
    starts, counts, names, first_rows = plan[5 : 5 + 4 * S].view(4, S).tolist()
    first_run, owner, order = (x.tolist() for x in plan[5 + 4 * S :].split([sizes.long, sizes.runs, rows]))
    found = {names[s]: order[starts[s] : starts[s] + counts[s]] for s in range(present)}
    assert found == {k: [i for i, y in enumerate(labels) if y == k] for k in set(labels) - {-100}}
    assert all(n > 3 for n in counts[:long])
    assert all(1 < n <= 3 for n in counts[long:several])
    assert all(n == 1 for n in counts[several:present])
    assert names[several:present] == sorted(names[several:present])
    assert first_rows[:present] == [order[start] for start in starts[:present]]
    cut = [(k, j) for k in range(long) for j in range(-(-counts[k] // 3))]
    assert [(k, r - first_run[k]) for r, k in enumerate(owner[:runs])] == cut
    assert sorted(order) == list(range(rows))
    assert order[counted:] == [i for i, y in enumerate(labels) if y == -100]


@pytest.mark.parametrize(("rows", "classes"), [(6, 300), (300, 6), (2000, 3000)])
def test_plan_does_not_wait_for_the_gpu(rows, classes):
    """The meta device has no values: a look at one raises."""
    plan = lgl_inr_triton._plan(torch.empty(rows, device="meta", dtype=torch.long), classes, -100)
    assert plan.shape == (lgl_inr_triton._length(rows, classes),)


@pytest.mark.parametrize("processors", [1, 132])
@pytest.mark.parametrize("classes", [1, 2, 5, 10, 100, 1000, 21_841, 1_000_003])
@pytest.mark.parametrize("rows", [1, 7, 256, 4096, 1_000_000])
def test_layout_covers_the_columns_in_tiles_that_fit(rows, classes, processors):
    layout = lgl_inr_triton._layout(rows, classes, classes, processors)
    for block in (layout.block_rows, layout.block_singles, layout.block_columns):
        assert block & (block - 1) == 0  # triton takes powers of two only
    assert 0 <= layout.tiles * layout.block_columns - classes < layout.block_columns
    assert layout.block_rows >= 4
    assert layout.block_rows * layout.block_columns <= 1024
    assert 1 <= layout.splits <= max(1, min(rows, classes))
    assert 1 <= layout.run_splits <= max(1, lgl_inr_triton._sizes(rows, classes).runs)
    assert 1 <= layout.long_splits <= max(1, lgl_inr_triton._sizes(rows, classes).long)
    for splits in (layout.splits, layout.run_splits, layout.long_splits):
        assert splits <= max(1, 32 * processors / layout.tiles + 1, min(rows // 2, classes) / 1024 + 1)


@pytest.mark.parametrize(
    ("rows", "columns", "classes"), [(256, 1000, 1000), (512, 1000, 100_000), (4096, 16, 131_072)]
)
def test_classes_of_one_row_fill_a_gpu(rows, columns, classes):
    layout = lgl_inr_triton._layout(rows, columns, classes, 132)
    busy = min(layout.splits, -(-rows // layout.block_singles))
    assert layout.tiles * busy >= 3 * 132


def test_few_long_classes_fill_a_gpu():
    layout = lgl_inr_triton._layout(1_000_000, 10, 10, 132)
    assert layout.tiles * layout.run_splits >= 4 * 132


@pytest.mark.parametrize(("columns", "stride", "expected"), [(1000, 1000, 4), (6, 8, 2), (6, 7, 1), (7, 14, 1)])
def test_elements_loaded_at_once(columns, stride, expected):
    assert lgl_inr_triton._together(columns, stride) == expected


def test_the_plan_is_that_of_the_torch_path():
    for rows, classes in [(3, 9), (9, 3), (5, 5)]:
        segments = make_segments(torch.zeros(rows, dtype=torch.long), classes, -100)
        assert len(segments.labels) == lgl_inr_triton._sizes(rows, classes).segments
