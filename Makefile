# Two commands: `make demo` and `make test`. Each makes its own environment in .venv first.
PYTHON ?= python3
BIN := .venv/bin
# What an installation depends on: after a change to any of it the package is installed again.
INSTALLED := pyproject.toml constraints.txt hatch_build.py $(wildcard src/steelyard/kernels/*.h src/steelyard/kernels/*/*.c)
# A test process a core, each with one thread: threads of several processes would wait for each other. Python keeps
# what it compiled, whatever the environment says: the tests start many processes.
TESTS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal
LOSSES := softmax,softmax:inverse,logistic,lgl-inr

# What needs torch and numpy alone: losses, laws, audits, forecasts, decisions.
CORE := $(addprefix tests/,losses kernels balance weights auditing forecasting deciding common test_posterior.py \
	test_prior.py test_corrected.py test_notation.py)

.PHONY: demo docs test test-slow test-oldest test-newest chaos mutants bench accuracy lint clean

DEMO := runs/demo
TRAINED = $(DEMO)/compare/$(1)/seed-0/train_predictions.parquet

demo: .venv/demo.stamp
	rm -rf $(DEMO)
	$(BIN)/steelyard compare --dataset digits --imbalance exponential:50 --losses $(LOSSES) --seeds 4 --out $(DEMO)/compare
	$(BIN)/steelyard audit $(call TRAINED,softmax-inverse) --out $(DEMO)/audit-weighted
	$(BIN)/steelyard audit $(call TRAINED,softmax) --out $(DEMO)/audit-unweighted
	$(BIN)/steelyard report $(DEMO)
	@echo "Open it: $(BIN)/steelyard open $(DEMO)"

docs: .venv/docs.stamp
	$(BIN)/properdocs build --strict --config-file mkdocs.yml
	@echo "The site is in site/index.html."

test: .venv/dev.stamp
	$(TESTS)

test-slow: .venv/dev.stamp
	$(TESTS) -m slow

# The core in environments of their own, made in .venv-oldest and .venv-newest: torch takes minutes to download.
test-oldest test-newest: test-%: .venv-%/stamp
	OMP_NUM_THREADS=1 .venv-$*/bin/pytest -W default --numprocesses auto --dist worksteal $(CORE)

chaos: .venv/dev.stamp
	$(BIN)/python -m tests.chaos

bench: .venv/dev.stamp
	$(BIN)/python benchmarks/losses.py --out benchmarks/results/losses-cpu.csv
	$(BIN)/python benchmarks/startup.py --out benchmarks/results/startup-cpu.csv
	$(BIN)/python benchmarks/streams.py --out benchmarks/results/streams-cpu.csv
	$(BIN)/python benchmarks/linear.py --curve --out benchmarks/results/linear-cpu.csv --figure docs/figures/cost.svg

accuracy: .venv/dev.stamp
	$(BIN)/python benchmarks/accuracy.py --out benchmarks/results/accuracy.csv --page docs/accuracy.md

MODULE ?= losses/softmax.py
mutants: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(MODULE)

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv .venv-oldest .venv-newest

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo.stamp: .venv/bin/python $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[train]"
	touch $@

.venv/docs.stamp: .venv/bin/python $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	touch $@

.venv/dev.stamp: .venv/bin/python $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.venv-%/stamp: $(INSTALLED) constraints-oldest.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
		$(if $(filter oldest,$*),-c constraints-oldest.txt) -e ".[train]" accelerate \
		pytest pytest-xdist hypothesis expecttest mpmath
	touch $@
