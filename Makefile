# `make demo` shows what pgrecall does, `make test` proves it; both set themselves up.
.PHONY: help demo test test-slow lint clean setup bench

help:
	@echo "make demo       back up, lose a table, recover it, on a real PostgreSQL, in two minutes"
	@echo "make test       all tests but the long campaigns, on every PostgreSQL version that can be had"
	@echo "make test-slow  the long campaigns"
	@echo "make lint       ruff and mypy"
	@echo "make bench      measure against pg_basebackup and pgBackRest, write docs/performance.md (bench/peers.sh first)"
	@echo "make clean      remove what the others made"

demo:
	@scripts/setup demo
	@.venv/bin/pgrecall demo $(DEMO)

setup:
	@scripts/setup dev
	@scripts/servers

# TEST="-k name" narrows it
test: setup
	@.venv/bin/python scripts/run_tests.py -m "not slow" -n 2 $(TEST)

test-slow: setup
	@.venv/bin/python scripts/run_tests.py -m slow --timeout 7200 $(TEST)

lint:
	@scripts/setup dev
	.venv/bin/ruff check .
	.venv/bin/mypy

# BENCH="--size 300MB --files 3000 --rounds 1 --no-write" to try it
bench:
	@scripts/setup dev
	@.venv/bin/python -m bench $(BENCH)

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
