PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo test test-fast faults lint results lock clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python jobs/demo.py

test: lint
	$(BIN)/pytest -m "not bench" --durations=10

test-fast: lint
	$(BIN)/pytest -m "not slow and not faults and not gpu and not bench"

faults: $(INSTALLED)
	$(BIN)/pytest -m faults

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The README's results: half an hour on 2 cores.
results: $(INSTALLED)
	rm -rf results
	$(BIN)/digitsum synth --out results/train --split train --images 24000 --shards 3
	$(BIN)/digitsum synth --out results/val --split val --images 6000
	$(BIN)/digitsum synth --out results/test --split test --images 10000 --shards 4
	$(BIN)/python jobs/train.py --archive results/train --validation results/val --bundle results/baseline --name baseline
	$(BIN)/python jobs/evaluate.py --archive results/test --bundle results/baseline --report results/evaluation

# What `make install` installs, in a fresh environment; the CPU build's mark is left out, so that the
# same pin takes the CUDA build where pip offers that.
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet '.[dev]'
	build/lock/bin/pip freeze --exclude digitsum | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf .venv build demo results evaluation
