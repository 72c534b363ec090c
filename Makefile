# Everything a contributor or CI needs; each target installs what it uses into .venv.
PYTHON ?= python3
BIN := .venv/bin
# One thread a process: tests and sweeps run side by side.
ONE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: docs demo test test-slow corpus mutants check bench study clean

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ .venv/installed

.venv/installed-docs: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@ .venv/installed

demo: .venv/installed  ## plant a backdoor in a real classifier, defend it at every stage, write the report
	$(BIN)/sidedoor run experiments/demo.toml --out runs/demo

test: .venv/installed-dev  ## the test suite
	$(ONE) $(BIN)/pytest -n 2

test-slow: .venv/installed-dev  ## trained facts that take minutes
	$(ONE) $(BIN)/pytest -n 2 -m slow --timeout=1800

corpus: .venv/installed-dev  ## hostile and odd files, read in processes with limits, and commands that are killed
	$(ONE) $(BIN)/python -m tests.corpus
	$(ONE) $(BIN)/python -m tests.corpus.kills

mutants: .venv/installed-dev  ## plant faults in a copy of the package and say which the tests do not notice; minutes
	$(ONE) $(BIN)/python -m tests.mutants

docs: .venv/installed-docs  ## the site of docs/ into site/; fetches nothing but, at first, the tools
	NO_MKDOCS_2_WARNING=1 $(ONE) $(BIN)/mkdocs build --strict --quiet

check: .venv/installed-dev  ## lint and types
	$(BIN)/ruff check .
	$(BIN)/mypy

# full.toml needs a GPU: run it by hand.
study: .venv/installed-dev  ## the figures of docs/results; data sets are looked for in SIDEDOOR_DATA
	$(BIN)/sidedoor sweep experiments/digits.toml --workers 2 --out runs/digits
	$(BIN)/sidedoor sweep experiments/attacks.toml --workers 2 --out runs/attacks
	$(BIN)/sidedoor run experiments/fashion.toml --out runs/fashion
	$(BIN)/sidedoor run experiments/demo.toml --out runs/demo
	for file in $(filter-out %/full.toml,$(wildcard experiments/i2i/*.toml)); do \
	  $(BIN)/sidedoor sweep $$file --workers 2 --out runs/i2i || exit 1; done
	$(BIN)/python -m experiments.i2i.page runs/i2i -o docs/results/i2i.md
	for file in $(filter-out %/full.toml,$(wildcard experiments/poison_ink/*.toml)); do \
	  $(BIN)/sidedoor sweep $$file --workers 2 --out runs/poison_ink || exit 1; done
	$(BIN)/python -m experiments.poison_ink.page runs/poison_ink -o docs/results/poison_ink.md --data-root $(SIDEDOOR_DATA)
	for file in $(filter-out %/full.toml,$(wildcard experiments/blo/*.toml)); do \
	  $(BIN)/sidedoor sweep $$file --workers 2 --out runs/blo || exit 1; done
	$(BIN)/python -m experiments.blo.page runs/blo -o docs/results/blo.md
	for name in demo digits attacks fashion; do $(BIN)/sidedoor report runs/$$name -o docs/results/$$name.md; done

bench: .venv/installed-dev  ## speed, as ratios against a baseline in the same run
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/triggers.py
	$(BIN)/python benchmarks/injection.py
	$(BIN)/python benchmarks/restoration.py
	$(BIN)/python benchmarks/reconstruction.py
	$(BIN)/python benchmarks/start.py

clean:
	rm -rf runs site .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
