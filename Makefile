PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
FUZZ_SECONDS ?= 600

.PHONY: install demo test test-fast faults lint browser architecture results package-bundle bench fuzz lock clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python jobs/demo.py

test: lint browser
	$(BIN)/pytest -m "not bench" --durations=10

test-fast: lint
	$(BIN)/pytest -m "not slow and not faults and not gpu and not bench"

# The reports are tested in a real browser, Debian's.
browser:
	@(command -v chromium && command -v chromedriver) > /dev/null \
		|| (test "$$(id -u)" = 0 && echo "installing chromium, by apt" && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		chromium chromium-driver fonts-dejavu-core > /dev/null) \
		|| (echo "the reports' tests need a browser: apt install chromium chromium-driver" && exit 1)

# The long form, some half an hour: 215 kills and 500 damaged shards.
faults: $(INSTALLED)
	DIGITSUM_KILLS=200 DIGITSUM_CLUSTER_KILLS=5 DIGITSUM_PLACES=500 \
		$(BIN)/pytest -m faults --timeout 3600 --durations=10

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The README's results: some three hours on 2 cores; interrupted, it goes on where it was.
results: $(INSTALLED)
	$(BIN)/python benchmarks/results.py

# The model that comes with digitsum, of `make results`.
package-bundle: $(INSTALLED)
	$(BIN)/python benchmarks/package_bundle.py

# digitsum against its peers on this machine, some half an hour; needs `make results` and Java 17.
bench: $(INSTALLED)
	$(PYTHON) -m venv build/bench
	build/bench/bin/pip install --quiet --requirement benchmarks/peers.txt
	$(BIN)/python benchmarks/scoring.py

# Bytes from elsewhere, guided by coverage, through each seam that reads them; 10 minutes in all.
fuzz: $(INSTALLED) build/fuzz/.installed
	PYTHONPATH=build/fuzz/atheris $(BIN)/python tests/fuzz/fuzz.py --seconds $(FUZZ_SECONDS)

# Beside the project's environment, and not in it: atheris is of no use to anything else.
build/fuzz/.installed: tests/fuzz/requirements.txt $(INSTALLED)
	$(BIN)/pip install --quiet --upgrade --target build/fuzz/atheris --requirement $<
	touch $@

# The picture in docs/architecture.md.
architecture: $(INSTALLED)
	$(BIN)/python docs/architecture.py

# What `make install` installs, in a fresh environment; the CPU build's mark is left out, so that the
# same pin takes the CUDA build where pip offers that.
lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet '.[dev]'
	build/lock/bin/pip freeze --exclude digitsum | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf .venv build demo results evaluation
