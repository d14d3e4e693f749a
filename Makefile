# Everything works alone in a fresh clone: each target first brings .venv up to date.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: install demo serve test check fix clean

install: $(STAMP)

# torch is named first and pinned: a bare requirement would fetch gigabytes of CUDA packages for a machine with no GPU
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/paddock demo $(ARGS)

serve: install
	$(BIN)/paddock serve $(ARGS)

# as many processes as processors; who is done takes over from the other, and so few fixtures are made twice
# as a worker on a processor has them: large buffers are kept for the next test
test: export MALLOC_MMAP_THRESHOLD_ ?= 268435456
test: export MALLOC_TRIM_THRESHOLD_ ?= 1073741824
test: install
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m tests.project.audit $(AUDIT)

fix: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv
