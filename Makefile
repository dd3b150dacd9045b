# make run: the gateway on its embedded defaults. make test: the whole test suite. See README.md.

PYTHON := $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: run test services services-stop lint types proto package-check coverage clean

run: .venv/run
	@mkdir -p var
	@echo
	@echo "  The gateway starts: MD30 boxes on 127.0.0.1:1883, MD21 boxes on 127.0.0.1:2100, HTTP on http://127.0.0.1:8080, data in var/."
	@echo "  Try in another terminal:"
	@echo
	@echo "    $(BIN)/binaryserver-box --boxes 2 --tracks 10          # two simulated boxes"
	@echo "    $(BIN)/binaryserver-ctl tail --from-start --no-follow  # what arrived"
	@echo "    $(BIN)/binaryserver-ctl tail                           # what arrives from now on"
	@echo "    $(BIN)/binaryserver-box --tracks 0 --stay              # a box that waits for messages, and in a third one:"
	@echo "    $(BIN)/binaryserver-ctl send 350000000000001 config interval=30 --want-ack --wait"
	@echo
	@echo "  README.md shows a first track from any MQTT client. Ctrl-C ends the gateway."
	@echo
	@exec $(BIN)/twistd -n --pidfile=var/twistd.pid binaryserver

test: .venv/dev
	@mkdir -p var
	@$(BIN)/python -m tests.summary

coverage: .venv/dev
	@mkdir -p var/coverage
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m tests.summary
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

services:
	@python3 tests/services/services.py start

services-stop:
	@python3 tests/services/services.py stop

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

proto: .venv/dev
	$(BIN)/python -m tests.protos

package-check: .venv/dev
	@mkdir -p var
	rm -rf var/dist
	$(BIN)/python -m build --no-isolation --outdir var/dist . >var/build.log 2>&1 || { tail -20 var/build.log; exit 1; }
	$(BIN)/python -m twine check --strict var/dist/*

clean:
	rm -rf .venv var build *.egg-info

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or later with venv is missing: install it (Debian: python3 python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/run: .venv/bin/python setup.cfg constraints.txt
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/bin/python setup.cfg constraints.txt
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@ .venv/run
