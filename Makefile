# All tasks of the project; `make` alone lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
LINE   := 110
DIST   := dist
DATABASE ?= sqlite
# Else each of the many programs that the tests start compiles all modules again.
COMPILED := env -u PYTHONDONTWRITEBYTECODE
CODE   := server.py integrations handlers jobs models tests bench docs

.DEFAULT_GOAL := help
.PHONY: help demo sandbox serve test faults bench docs screenshots binary check format lock install postgresql \
    clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## run a throwaway server with a building, a mailbox and a partner
	@$(BIN)/python server.py demo

sandbox: $(VENV)/.runtime ## run a throwaway server for tests, quiet, on the port that is set
	@$(BIN)/python server.py sandbox

serve: $(VENV)/.runtime ## run the server on LEADS_DATA_DIR, by default ./data
	@$(BIN)/python server.py serve

test: $(VENV)/.dev ## run the tests; DATABASE=postgresql on a PostgreSQL that they start
	@DATABASE=$(DATABASE) $(COMPILED) $(BIN)/python -m pytest -n auto --dist loadfile

faults: $(VENV)/.dev ## run faults against the server, and print a table; FAULT=kill-9 for one row
	@$(COMPILED) $(BIN)/python tests/faults/runner.py $(FAULT)

bench: $(VENV)/.dev ## measure the server beside bare Tornado; ROW=lone for one row, AGAINST=DIR for another checkout
	@$(BIN)/python bench/run.py $(ROW) $(if $(AGAINST),--against $(AGAINST))

binary: $(VENV)/.dev ## build the one-file program: dist/leads
	@$(BIN)/python -m PyInstaller --noconfirm --log-level WARN --onefile --strip --name leads \
	    --distpath $(DIST) --workpath .build --specpath .build \
	    --add-data $(CURDIR)/static:static \
	    --add-data $(CURDIR)/jobs/email/templates:jobs/email/templates \
	    --add-data $(CURDIR)/handlers/sandbox/static:handlers/sandbox/static \
	    --add-data $(CURDIR)/handlers/samples:handlers/samples \
	    --add-data $(CURDIR)/handlers/templates:handlers/templates \
	    --add-data $(CURDIR)/handlers/api/templates:handlers/api/templates \
	    --collect-data tzdata --collect-submodules phonenumbers.data --collect-all psycopg_binary \
	    --exclude-module setuptools --exclude-module pkg_resources --exclude-module tkinter server.py

check: $(VENV)/.dev ## check format, lint, types and imports
	@$(BIN)/ruff format --check --line-length $(LINE) $(CODE)
	@$(BIN)/flake8 $(CODE)
	@$(BIN)/mypy
	@said=$$($(BIN)/lint-imports) || { echo "$$said"; exit 1; }

format: $(VENV)/.dev ## format the code as `make check` requires it
	@$(BIN)/ruff check --quiet --select I --fix --line-length $(LINE) $(CODE)
	@$(BIN)/ruff format --quiet --line-length $(LINE) $(CODE)

docs: $(VENV)/.runtime ## write the generated tables of docs/
	@$(BIN)/python -m docs.tables

screenshots: $(VENV)/.dev ## take the pictures of docs/images/ (needs chromium)
	@PYTHONPATH=tests:integrations/pytest $(BIN)/python docs/screenshots.py

lock: ## pin the requirements again, with hashes (needs uv)
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" requirements.in -o requirements.txt
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" requirements-dev.in -o requirements-dev.txt
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command "make lock" requirements-postgresql.in -o requirements-postgresql.txt

install: $(VENV)/.dev ## make .venv from the pinned requirements, with what tests and PostgreSQL need

postgresql: $(VENV)/.postgresql ## install the driver for LEADS_DATABASE_URL, which `make serve` leaves out

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or later is needed; choose one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: requirements.txt | $(VENV)/.python
	@echo "Installing the requirements of the server ..."
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.postgresql: requirements-postgresql.txt $(VENV)/.runtime
	@echo "Installing the driver of PostgreSQL ..."
	@$(PIP) -r requirements.txt -r requirements-postgresql.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.postgresql
	@echo "Installing the requirements of checks and tests ..."
	@$(PIP) -r requirements.txt -r requirements-postgresql.txt -r requirements-dev.txt
	@touch $@

clean: ## remove .venv and caches
	rm -rf $(VENV) .build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
