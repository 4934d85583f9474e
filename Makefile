# efficientgen: `make drive` and `make test` set everything up themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# An index for PyTorch, e.g. https://download.pytorch.org/whl/cpu; empty means plain pip.
TORCH_INDEX ?=
EGL_PACKAGES := libegl1 libegl-mesa0 libgl1-mesa-dri
ARGS ?=
# Processes that run tests at a time.
JOBS ?= 2

.PHONY: setup system drive test lint towns clean

setup: $(VENV)/.ready

system:
	@if ldconfig -p | grep -q libEGL_mesa; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $(EGL_PACKAGES); \
	else \
	  echo "The reference renderer wants EGL; install it with:  sudo apt-get install -y $(EGL_PACKAGES)"; \
	  echo "Without it drives still run, on Panda3D's software renderer, and their reports say so."; \
	fi

$(VENV)/.ready: requirements.txt setup.py | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . \
	  || $(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-devkits.txt $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-devkits.txt
	@touch $@

drive: setup
	$(BIN)/efficientgen drive $(ARGS)

# Side by side; then, alone, what starts real ROS graphs, whose processes fill two cores, are killed and timed.  Tests
# chosen in ARGS (a path, -k, -m) are run by one plain pytest.
test: $(VENV)/.dev
ifeq ($(filter tests/% -k -m,$(ARGS)),)
	@failed=0; \
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore tests/ros $(ARGS) || failed=1; \
	$(BIN)/python -m pytest tests/ros $(ARGS) || failed=1; \
	exit $$failed
else
	$(BIN)/python -m pytest $(ARGS)
endif

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Regenerate the town networks (SUMO's network tools, development only).
towns: setup
	$(BIN)/pip install --quiet eclipse-sumo==1.28.0
	$(BIN)/python scenarios/make_towns.py

clean:
	rm -rf $(VENV) build *.egg-info runs
