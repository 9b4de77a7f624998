"""Decisions on files: those of steelyard.decide, in every format that correct writes, with all other columns kept."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from steelyard import TrainingSetup, decide, expected_costs, log_posterior, thresholds
from steelyard.commands.correct import correct_file
from steelyard.commands.decide import decide_file

NAMES = ("cat", "dog", "owl")
COSTS = [[0.0, 1, 2], [5, 0, 5], [20, 10, 0]]


def _corrected(folder, suffix=".parquet", as_list=False, rows=300):
    z = 2 * torch.randn(rows, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z[7] = torch.nan
    if suffix == ".npz":
        np.savez(folder / "p.npz", logits=z.numpy(), ids=np.arange(rows))
    else:
        flat = pa.FixedSizeListArray.from_arrays(pa.array(z.reshape(-1).numpy()), 3)
        numbers = {"logits": flat} if as_list else {f"logit_{n}": z[:, k].numpy() for k, n in enumerate(NAMES)}
        pq.write_table(
            pa.table({"id": np.arange(rows), **numbers, "fold": np.arange(rows) % 5}), folder / "p.parquet"
        )
    source, out = folder / ("p.npz" if suffix == ".npz" else "p.parquet"), folder / f"honest{suffix}"
    correct_file(source, out, loss="softmax", class_names=NAMES)
    kept = torch.arange(rows) != 7
    return out, log_posterior(z[kept], TrainingSetup("softmax")), kept.numpy()


def _read(path):
    if path.suffix == ".npz":
        with np.load(path) as found:
            return {name: found[name] for name in found}
    return (pd.read_parquet if path.suffix == ".parquet" else pd.read_csv)(path)


def _costs(folder):
    lines = [",".join(("", *NAMES)), *(",".join((n, *map(str, row))) for n, row in zip(NAMES, COSTS, strict=True))]
    (folder / "costs.csv").write_text("\n".join(lines))
    return folder / "costs.csv"


@pytest.mark.parametrize(
    ("suffix", "as_list"), [(".parquet", False), (".parquet", True), (".csv", False), (".npz", True)]
)
def test_the_decisions_of_least_cost(tmp_path, suffix, as_list):
    file, q, kept = _corrected(tmp_path, suffix, as_list)
    found = decide_file(file, costs=_costs(tmp_path), out=tmp_path / f"d{suffix}")
    decided = decide(q, COSTS)
    table = _read(tmp_path / f"d{suffix}")
    assert list(np.asarray(table["decision"])[kept]) == [NAMES[k] for k in decided.tolist()]
    assert not isinstance(table["decision"][7], str) or table["decision"][7] == ""
    expected = expected_costs(q, COSTS).gather(1, decided[:, None])[:, 0]
    np.testing.assert_allclose(np.asarray(table["expected_cost"])[kept], expected.numpy(), rtol=1e-9)
    assert np.isnan(table["expected_cost"][7])
    assert (found.rows, found.without) == (300, 1)
    assert found.counts == {name: int((decided == k).sum()) for k, name in enumerate(NAMES)}
    assert found.expected_cost == pytest.approx(float(expected.mean()))
    likeliest = expected_costs(q, COSTS).gather(1, decide(q)[:, None]).mean()
    assert found.cost_of_likeliest == pytest.approx(float(likeliest))
    if suffix == ".npz":
        assert table["ids"].tolist() == list(range(300))
        assert "correction" in json.loads(str(table["steelyard"]))
    else:
        assert list(table.columns)[-2:] == ["decision", "expected_cost"]
        before = _read(file)
        pd.testing.assert_frame_equal(table.iloc[:, :-2], before)
    assert decide_file(file, costs=_costs(tmp_path)) == found  # without a file to write
    if as_list and suffix == ".parquet":
        decide_file(file, costs=_costs(tmp_path), out=tmp_path / "d.csv")
        assert list(_read(tmp_path / "d.csv").columns) == [
            "id", *(f"corrected_probability_{n}" for n in NAMES), "decision", "expected_cost", "fold"
        ]  # fmt: skip


def test_rejection(tmp_path):
    file, q, kept = _corrected(tmp_path)
    found = decide_file(file, reject_cost=0.2, out=tmp_path / "d.parquet")
    decided = decide(q, reject_cost=0.2)
    assert found.counts["rejected"] == int((decided < 0).sum()) > 0
    column = _read(tmp_path / "d.parquet")["decision"][kept]
    assert (column == "rejected").tolist() == (decided < 0).tolist()
    cost = torch.where(decided < 0, 0.2, 1 - q.exp().amax(1))
    assert found.expected_cost == pytest.approx(float(cost.mean()))


def test_thresholds_from_a_file(tmp_path):
    file, q, kept = _corrected(tmp_path)
    target = torch.multinomial(q.exp(), 1, generator=torch.Generator().manual_seed(1))[:, 0]
    found = thresholds(q, target, objective="balanced-accuracy")
    (tmp_path / "t.json").write_text(json.dumps(found.to_dict()))
    done = decide_file(file, offsets=tmp_path / "t.json", out=tmp_path / "d.parquet")
    table = _read(tmp_path / "d.parquet")
    assert table["decision"][kept].tolist() == [NAMES[k] for k in found.decide(q).tolist()]
    assert "expected_cost" not in table
    assert done.expected_cost is None
    with pytest.raises(ValueError, match="costs must not be given beside offsets"):
        decide_file(file, offsets=tmp_path / "t.json", reject_cost=1.0)
    for bad in ({"offsets": [0, 1, 2]}, found.to_dict() | {"kind": "tau=1classes"}):
        (tmp_path / "bad.json").write_text(json.dumps(bad))
        with pytest.raises(ValueError, match="must hold thresholds as their to_dict"):
            decide_file(file, offsets=tmp_path / "bad.json")


def test_a_class_name_that_ends_in_a_nul_is_refused(tmp_path):
    """Numpy's arrays of texts drop a NUL at the end of a text: two classes would become one."""
    file, _, _ = _corrected(tmp_path)
    with pytest.raises(ValueError, match="a name that ends in a NUL cannot be written"):
        decide_file(file, class_names=["be", "be\0", "c"], out=tmp_path / "d.parquet")


def test_one_output(tmp_path):
    z = torch.linspace(-4, 4, 50, dtype=torch.float64)
    pd.DataFrame({"score": z, "y": z > 0}).to_csv(tmp_path / "s.csv", index=False)
    correct_file(tmp_path / "s.csv", tmp_path / "h.csv", pos_weights="10")
    (tmp_path / "costs.csv").write_text("class,cost\n0,1\n1,20\n")
    decide_file(tmp_path / "h.csv", costs=tmp_path / "costs.csv", out=tmp_path / "d.csv")
    setup = TrainingSetup("logistic", pos_weight=[10.0], targets="binary")
    decided = decide(log_posterior(z, setup), [1.0, 20.0])
    assert _read(tmp_path / "d.csv")["decision"].tolist() == decided.tolist()
    decide_file(tmp_path / "h.csv", class_names=["no", "yes"], out=tmp_path / "n.csv")
    assert set(_read(tmp_path / "n.csv")["decision"]) == {"no", "yes"}


def test_outputs_that_stand_for_themselves(tmp_path):
    z = 2 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pq.write_table(pa.table({f"logit_{n}": z[:, k].numpy() for k, n in enumerate(NAMES)}), tmp_path / "p.parquet")
    correct_file(
        tmp_path / "p.parquet", tmp_path / "h.csv", loss="logistic", targets="multi-hot", pos_weights="2,3,4"
    )
    (tmp_path / "costs.csv").write_text("0,1\n4,0\n")
    found = decide_file(tmp_path / "h.csv", costs=tmp_path / "costs.csv", reject_cost=0.4, out=tmp_path / "d.csv")
    q = torch.nn.functional.logsigmoid(z - torch.tensor([2.0, 3, 4]).log())
    decided = decide(q, [[0, 1], [4, 0]], reject_cost=0.4, targets="multi-hot")
    table = pd.read_csv(tmp_path / "d.csv", dtype=str)
    texts = {0: "0", 1: "1", -1: "rejected"}
    for k, name in enumerate(NAMES):
        assert table[f"decision_{name}"].tolist() == [texts[d] for d in decided[:, k].tolist()]
    assert found.counts == {name: int((decided[:, k] == 1).sum()) for k, name in enumerate(NAMES)}
    table = expected_costs(q, [[0, 1], [4, 0]], targets="multi-hot")
    cost = torch.where(decided < 0, 0.4, table.gather(2, decided.clamp(min=0)[..., None])[..., 0]).sum(1)
    assert found.expected_cost == pytest.approx(float(cost.mean()))


def test_what_does_not_fit_is_refused(tmp_path):
    file, _, _ = _corrected(tmp_path)
    with pytest.raises(ValueError, match="must have corrected probabilities of one model, got none"):
        decide_file(tmp_path / "p.parquet")
    with pytest.raises(FileExistsError, match="exists already"):
        decide_file(file, out=file)
    decide_file(file, out=tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="has a column 'decision' already"):
        decide_file(tmp_path / "d.parquet", out=tmp_path / "twice.parquet")
    assert not (tmp_path / "twice.parquet").exists()
    (tmp_path / "bad.csv").write_text("class,cost\ncat,1\ndog,1\nbat,1\n")
    with pytest.raises(ValueError, match="names an unknown class 'bat'"):
        decide_file(file, costs=tmp_path / "bad.csv")
    with pytest.raises(FileNotFoundError):
        decide_file(file, costs=tmp_path / "none.csv")
    with pytest.raises(ValueError, match="reject_cost"):
        decide_file(file, reject_cost=float("nan"))
    rows = "corrected_probability_a,corrected_probability_b\n"
    for cells, message in {
        "0.5,0.6": "must sum to 1",
        "-0.5,1.5": r"must lie in \[0, 1\]",
        "x,1": "got 'x'",
    }.items():
        (tmp_path / "h.csv").write_text(f"{rows}{cells}\n")
        with pytest.raises(ValueError, match=message):
            decide_file(tmp_path / "h.csv")
    (tmp_path / "h.csv").write_text("corrected_probability_a,corrected_probability_rejected\n0.5,0.5\n")
    with pytest.raises(ValueError, match="a class called 'rejected'"):
        decide_file(tmp_path / "h.csv", reject_cost=0.1)
    (tmp_path / "h.csv").write_text("corrected_probability,corrected_output_probability_a\n0.5,0.5\n")
    with pytest.raises(ValueError, match="corrected probabilities of one model, got corrected_probability,"):
        decide_file(tmp_path / "h.csv")
