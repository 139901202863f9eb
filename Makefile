# The commands of the project; `make` lists them. Each installs what it needs: virtual environments here, system packages
# through apt when root. Nothing is installed outside the checkout otherwise.

VENV := .venv
RUN := $(VENV)/bin/python
OTHER_PYTHONS := 3.9 3.13
RUNNER := 'pytest-xdist>=3' 'pytest-rerunfailures>=13'
PYTEST := -m pytest --durations=5
# These ask about servers, tools and sizes, not about Python: on this machine's Python only.
ONCE := $(wildcard $(foreach name,crowd leaving running_proxies node_check,tests/integration/test_$(name).py) \
	$(foreach name,gfal gs objectstore volume rucio payload_runtimes payload_proxy gdb grid_up demo_grid testbed,tests/grid/test_$(name).py))
# Tests that run at the same time: most of them wait for processes and clocks.
JOBS ?= $(shell expr $$(nproc) + 1)
DEPENDENCIES := pyproject.toml tools/requirements.py tools/make_venv.sh

.DEFAULT_GOAL := help
.PHONY: help venv demo demo-grid test test-here test-unit test-integration test-grid system-packages grid-packages grid-packages-or-skip grid-up grid-down lint docs bench clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

venv: $(VENV)/ready ## the virtual environment with everything that the other targets need

$(VENV)/ready: $(DEPENDENCIES)
	@tools/make_venv.sh $(VENV) "" test docs sandbox grid $(RUNNER)

demo: $(VENV)/ready ## three jobs through a server, pilots and back; KEEP=1 leaves the server running
	@$(RUN) demo/run.py $(if $(KEEP),--keep)

demo-grid: $(VENV)/ready grid-packages ## a job from Rucio to Rucio on XRootD, with traces (docs/grid-testbed.md)
	@$(RUN) demo/grid.py

test: ## all tests on this machine's Python; on 3.9 and 3.13, where they are, all but those of ONCE
	@$(MAKE) --no-print-directory -k test-here $(OTHER_PYTHONS:%=test-%)

test-here: $(VENV)/ready system-packages grid-packages-or-skip ## all tests on this machine's Python
	$(RUN) $(PYTEST) -n $(JOBS) tests

test-unit: $(VENV)/ready ## unit tests only
	$(RUN) $(PYTEST) -n $(JOBS) tests/unit

test-integration: $(VENV)/ready system-packages ## tests with real processes, sockets and signals, and those of the sandbox
	$(RUN) $(PYTEST) -n $(JOBS) tests/integration tests/sandbox

test-%: system-packages grid-packages-or-skip
	@tools/make_venv.sh .venv-$* $* test sandbox grid $(RUNNER)
	@if [ -x .venv-$*/bin/python ]; then set -x; .venv-$*/bin/python $(PYTEST) -n $(JOBS) $(ONCE:%=--ignore=%) tests; fi

system-packages:
	@tools/system_package.sh 'command -v chromium || command -v chromium-browser || command -v google-chrome' chromium

test-grid: $(VENV)/ready grid-packages-or-skip ## tests with real grid services (docs/grid-testbed.md)
	$(RUN) $(PYTEST) -n $(JOBS) tests/grid

grid-packages: ## installs XRootD, gfal2, VOMS, ActiveMQ, PostgreSQL (apt, as root), and the servers of Rucio and S3
	@tools/grid_packages.sh

# Without them the tests that need them are skipped, unless PILOT_REQUIRE_SERVICES=1 forbids it, as in .ci/run.
grid-packages-or-skip:
	@tools/grid_packages.sh || { [ "$(PILOT_REQUIRE_SERVICES)" != 1 ] && echo "tests that need what is missing are skipped" >&2; }

grid-up: $(VENV)/ready grid-packages ## starts XRootD, Rucio, S3 and the rest for you; grid-down ends them (docs/grid-testbed.md)
	@$(RUN) -m tests.grid.testbed up .grid $(SERVICES)

grid-down: ## ends what grid-up started
	@if [ -x $(RUN) ]; then $(RUN) -m tests.grid.testbed down .grid; fi

lint: $(VENV)/ready ## ruff, mypy --strict, import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --strict pilot
	$(VENV)/bin/lint-imports

docs: $(VENV)/ready ## the documentation, in docs/_build/html; warnings are errors
	$(VENV)/bin/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/ready grid-packages-or-skip ## the benchmarks, ratios instead of limits; BENCH=--quick is shorter
	$(RUN) benchmarks/run.py $(BENCH)
	$(RUN) benchmarks/copy_speed.py
	$(RUN) benchmarks/grid_speed.py $(BENCH)

clean: grid-down ## removes what the targets made, virtual environments included
	rm -rf .venv .venv-* .grid demo-run demo-grid-run docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
