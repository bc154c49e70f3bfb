# What a developer or a first user types; everything is installed from the lock file into .venv.
PORT ?= 8080
READY := .venv/.ready

.PHONY: run test check format faults clean

run: $(READY)
	@.venv/bin/tesp-api run --port $(PORT) $(if $(ONCE),--once)

test: $(READY)
	@.venv/bin/pytest $(PYTEST)

check: $(READY)
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

format: $(READY)
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

# The stamp, not the folder: an installation that was broken off is done again.
$(READY): pyproject.toml poetry.lock .ci/poetry
	@echo "installing into .venv"
	@.ci/poetry install --quiet --extras local
	@touch $@

# The long run, against everything, three tests at once: they wait more than they work. The table
# comes at the end.
faults: $(READY)
	@TESP_TEST_FAULTS=whole .venv/bin/pytest -n 3 --dist worksteal tests/faults $(PYTEST)

clean:
	rm -rf .venv .poetry .mypy_cache .pytest_cache .ruff_cache .hypothesis
