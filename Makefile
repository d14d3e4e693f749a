# Every target works in a fresh clone: it first brings .venv up to date.
PYTHON ?= python3
BIN := .venv/bin
SERVING := .venv/installed
TOOLS := .venv/installed-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

.PHONY: install demo serve test test-all check fix clean

# what serving needs; test, check and fix add the developers' tools
install: $(SERVING)

# torch first and pinned: a bare requirement would download gigabytes of CUDA packages for a machine without a GPU
$(SERVING): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(TOOLS): $(SERVING)
	$(PIP) --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/paddock demo $(ARGS)

serve: install
	$(BIN)/paddock serve $(ARGS)

# the tests use the allocator settings of a worker on a CPU: freed memory is kept for the next test
test test-all: export MALLOC_MMAP_THRESHOLD_ ?= 268435456
test test-all: export MALLOC_TRIM_THRESHOLD_ ?= 1073741824

# everything a developer runs before a commit
test: $(TOOLS)
	$(PYTEST) -m 'not heavy' $(ARGS)

# what is slow by nature: kills at all moments, generated clients, the wheel, the container. CI runs it after `make test`
test-all: $(TOOLS)
	$(PYTEST) -m heavy $(ARGS)

check: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.project.audit $(AUDIT)

fix: $(TOOLS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv
