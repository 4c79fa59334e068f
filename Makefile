# train: environment, then the first network.   test: environment, then the whole suite.
# web: what the page of tezawari export --to web runs on (needs Node; the network comes from the package).
# lint: format, rules, types.                   lock: record the versions of the environment as the tested ones.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Extra words for the command, for example: make train ARGS='trainer.max_steps=100', make test ARGS='-x -k gram'.
ARGS ?=
APART := tests/unit/style/test_speed_benchmark.py

.PHONY: train test web lint lock

WEB := src/tezawari/export/web

train: $(STAMP)
	@$(BIN)/python train.py model=multistyle $(ARGS)

# Three processes share the test files, for many tests wait for a server or a child; threads that wait must not spin, or
# the processes slow each other down. The tests of the speed benchmark have a process of their own beside them: after
# others in one, the interpreter has crashed. They speak when they fail. Exit code 5, none selected, is no failure.
test: $(STAMP)
	@log=$$(mktemp); export OMP_WAIT_POLICY=passive; \
	$(BIN)/python -m pytest $(APART) $(ARGS) > $$log 2>&1 & beside=$$!; \
	$(BIN)/python -m pytest -n 3 --dist loadfile --ignore=$(APART) $(ARGS); code=$$?; \
	wait $$beside; apart=$$?; \
	case $$apart in 0|5) ;; *) cat $$log;; esac; \
	rm -f $$log; \
	case $$apart/$$code in 0/0|0/5|5/0|5/5) ;; *) exit 1;; esac

web: $(WEB)/runtime/.built

$(WEB)/runtime/.built: $(WEB)/package-lock.json $(WEB)/build.mjs
	@cd $(WEB) && npm ci --ignore-scripts --silent && npm run --silent build
	@touch $@

lint: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

# Local version parts (+cpu, +cu130) are dropped: they name a build, which differs from machine to machine.
lock: $(STAMP)
	@{ echo "# The versions that were tested, on Python $$($(BIN)/python -c 'import platform; print(platform.python_version())')."; \
	   echo "# Written by 'make lock', read by 'make train' and 'make test' as constraints."; \
	   $(BIN)/python -m pip freeze --exclude-editable | sed -e '/ @ /d' -e '/^#/d' -e 's/+.*//'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock
	@touch $(STAMP)

# The stamp is written last, so an installation that was cut short is done again.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: the locked versions need Python 3.11 or newer, this is " + sys.version.split()[0] + "; name one: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the environment into .venv (several minutes the first time)"
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -c requirements.lock -e '.[segmentation]' || \
		echo "pydensecrf2 could not be built, for which it needs a C++ compiler: all works but the CRF (crf=null, --crf none)"
	@touch $@
