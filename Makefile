# make demo        attach, move and detach UEs on this machine, with the dashboard: no root, no compiler
# make test        all suites, as root one per core side by side, also those with Debian's programs and network namespaces
# make test-long   soaks, broad fuzzing, every schedule of moves in real time and Debian's kernel in QEMU too
# make fuzz        coverage-guided fuzzing of every decoder and machine, FUZZ_SECONDS for each target (60)
# make sanitize    the tests of the compiled core under gcc's sanitizers of memory, of undefined behaviour and of threads
# make fast        build the compiled core of the data plane in the checkout (gcc, Python's headers, libssl-dev)
# make wheel       a wheel in dist/, with the compiled core where it can be built
# make bench       the data planes side by side, ours and strongSwan's (root): docs/performance.md; BENCH_ARGS
# make lint        ruff, mypy --strict, import contracts
# make clean       remove the virtual environment, caches and what runs have left

BIN := .venv/bin
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
FUZZ_SECONDS ?= 60

# Files in the order of the collection, the long ones first; xdist's own order is by the number of tests.
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder

# The tests start hundreds of nodes, each of which would compile all its modules anew. Empty is as good as unset.
export PYTHONDONTWRITEBYTECODE :=

FAST_SOURCES := $(wildcard protocols/dataplane/fast/native/*.[ch])

.PHONY: demo test test-long fuzz sanitize fast wheel bench lint clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	$(BIN)/lab demo $(DEMO_ARGS)

test: .venv/.installed-test .venv/.peers .venv/.fast .venv/.axe
	$(BIN)/pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

test-long: .venv/.installed-test .venv/.peers .venv/.fast .venv/.axe .venv/.debian-kernel
	$(BIN)/pytest $(SIDE_BY_SIDE) --long $(PYTEST_ARGS)

fuzz: .venv/.installed-test
	$(BIN)/python -m tests.fuzz.guided --seconds $(FUZZ_SECONDS)

sanitize: .venv/.installed-test .venv/.peers
	.ci/sanitize address
	.ci/sanitize thread

fast: .venv/.installed .venv/.fast
	@test -e .venv/.fast

wheel: .venv/.installed
	$(BIN)/python -m pip wheel -qq --disable-pip-version-check --no-deps --wheel-dir dist .

bench: .venv/.installed-test .venv/.peers
	$(BIN)/python -m benchmarks.data_plane $(BENCH_ARGS)

lint: .venv/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist run evidence *.egg-info
	rm -f protocols/dataplane/fast/_native*.so
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml .ci/venv
	@.ci/venv $@

.venv/.installed-test: pyproject.toml .ci/venv
	@.ci/venv $@ test

.venv/.installed-lint: pyproject.toml .ci/venv
	@.ci/venv $@ lint

# Without root or apt-get there is no stamp, so that a later run as root installs them.
.venv/.peers: .ci/peers.txt .ci/peers .venv/.installed-test
	@.ci/peers $@

# Likewise. After the peers: apt-get runs once at a time.
.venv/.debian-kernel: .ci/debian-kernel .venv/.peers
	@.ci/debian-kernel $@

# Without a compiler there is no stamp, so that a later run builds it. After the peers, which bring the compiler.
.venv/.fast: pyproject.toml .ci/fast $(FAST_SOURCES)
	@.ci/fast $@

# Without npm or a registry there is no stamp, so that a later run installs it.
.venv/.axe: tests/browser/package.json tests/browser/package-lock.json .ci/axe .venv/.installed-test
	@.ci/axe $@
