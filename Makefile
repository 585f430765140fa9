# The commands of the project. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo pictures serve backup restore test slow contract chaos fuzz bench screenshots check format clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/demo ## set up, start the service, prune real networks over HTTP, show the results
	$(BIN)/python examples/demo.py

pictures: demo ## run the demo, and put its pictures into docs/
	cp $(or $(ESPALIER_DATA_DIR),var)/demo/accuracy.png $(or $(ESPALIER_DATA_DIR),var)/demo/comparison.png docs/

serve: $(VENV)/demo ## run the whole service on this machine, data in ./var (ESPALIER_DATA_DIR)
	$(BIN)/espalier-server

backup: $(VENV)/demo ## while the service runs: its data, whole and checked, in a new folder; make backup TO=/some/folder
	$(BIN)/python -m embedded.backup "$(TO)"

restore: $(VENV)/demo ## of a backup, into an empty data directory; make restore FROM=/some/folder
	$(BIN)/python -m embedded.restore "$(FROM)"

test: $(VENV)/dev ## set up and run all tests (real Valkey, Celery workers, SQLite, PostgreSQL, S3 server)
	$(BIN)/python -m pytest -q -n 3 --dist loadfile -m "not slow"

slow: $(VENV)/dev ## set up and run the tests that `make test` leaves out, minutes
	$(BIN)/python -m pytest -q -n 0 -m slow

contract: $(VENV)/dev ## requests made from the OpenAPI document, right and wrong, minutes; EXAMPLES=200 for more
	CONTRACT_EXAMPLES=$(or $(EXAMPLES),30) $(BIN)/python -m pytest -q -n 0 tests/api/test_contract.py

chaos: $(VENV)/dev ## kill, stop, fill, cut off what can be and check that no job is lost, 20 minutes; CHAOS="--seed 2" for more
	$(BIN)/python -m chaos --faults 200 --seed 1 --database both $(CHAOS)

fuzz: $(VENV)/fuzz ## read endless variations of uploads, none of which may run, crash or hang; MINUTES=60 FUZZ="--keep found" for more
	$(BIN)/python -m fuzz --minutes $(or $(MINUTES),10) $(FUZZ)

bench: $(VENV)/demo ## measure what is claimed of speed and memory, minutes; BENCH="--large --open-lth PATH" for more
	$(BIN)/python -m benchmarks $(BENCH)

screenshots: $(VENV)/dev ## take the pictures of docs/dashboard.md again (needs Chromium)
	$(BIN)/python examples/screenshots.py

zoo: $(VENV)/zoo ## programs of 90 families: read, trained, pruned, taken home; docs/models.md, hours; ZOO="--only timm:resnet"
	$(BIN)/python -m zoo $(ZOO)

check: $(VENV)/dev ## format, lint, strict types, import contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd client && ../$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and everything that was built (never ./var: it holds your data)
	rm -rf $(VENV) *.egg-info client/*.egg-info .*_cache

$(VENV)/demo $(VENV)/dev $(VENV)/fuzz $(VENV)/zoo: $(VENV)/%: pyproject.toml client/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e ./client -e '.[$*]'
	touch $@
