# `make sweep` and `make test` each do all their own set-up.
PYTHON ?= python3
VENV ?= .venv
NUM_SAMPLES ?= 32
# Arguments for pytest; `make test SLOW=1` runs the slow tests, too.
PYTEST_ARGS ?=
SLOW ?=
# Processes that test side by side, at most four; 0: this one, e.g. for breakpoints.
TEST_WORKERS ?= logical
FAULT_WORKERS ?= 3
# A folder that keeps images and wheels from one `make docker-test` to the next.
DOCKER_TEST_FOLDER ?=
# Arguments for benchmarks/run.py.
BENCHMARK_ARGS ?=

.PHONY: sweep test faults docker-test benchmark lock

sweep: $(VENV)/.installed
	$(VENV)/bin/python sweep/run.py --num-samples $(NUM_SAMPLES)

test: $(VENV)/.installed
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest --numprocesses $(TEST_WORKERS) --maxprocesses 4 \
		--dist worksteal $(if $(SLOW),-m "not docker") $(PYTEST_ARGS)

# The tests of RELIABILITY.md: mostly waiting, so more of them at once than there are cores.
faults: $(VENV)/.installed
	$(VENV)/bin/python -m pytest -m fault --numprocesses $(FAULT_WORKERS) --maxschedchunk 1 \
		$(PYTEST_ARGS) $$(grep -l 'mark\.fault' tests/test_*.py)

# Needs root, Docker and debootstrap, no registry of images; says why where it skips.
docker-test: $(VENV)/.installed
	DOCKER_TEST_FOLDER=$(DOCKER_TEST_FOLDER) $(VENV)/bin/python -m pytest -m docker -rs \
		tests/test_docker.py $(PYTEST_ARGS)

benchmark: $(VENV)/.installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint requirements.lock --editable ".[benchmark]"
	$(VENV)/bin/python benchmarks/run.py $(BENCHMARK_ARGS)

$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint requirements.lock --editable ".[test]"
	touch $@

# Resolve every dependency again, for all systems; needs uv.
lock:
	uv pip compile --universal --python-version 3.11 --all-extras --no-annotate \
		--no-header --quiet --upgrade --output-file requirements.lock pyproject.toml
