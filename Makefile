# Everything runs from a virtual environment of this checkout; no target needs more than Python >= 3.11 and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS   ?=
# Processes that share the tests (0: none but pytest itself). More than two cores have to do, since many tests wait for
# processes that they started. A file's tests stay together, and in order the files with such tests come first.
WORKERS ?= 3
TRACE  ?=
SUITE  ?=
NODES  ?= 1
ON_SUITE = $(if $(SUITE),$(BIN)/python -m tests.support.slurm_suite $(SUITE) --)
ON_KAFKA = $(if $(filter kafka --log=kafka,$(ARGS)),$(BIN)/python -m tests.support.kafka_here run --)

.DEFAULT_GOAL := help
.PHONY: help install demo demo-slurm test test-slurm test-vllm test-kafka slurm-up slurm-down kafka-up kafka-down check format docs release-schemas benchmarks benchmarks-dynamo accuracy faults faults-slurm faults-kafka wheel-check clean

help: ## List all targets
	@if [ -t 1 ]; then on='\033[36m' off='\033[0m'; fi; \
	awk -F':.*## ' -v on="$$on" -v off="$$off" '/^[a-z-]+:.*## /{printf "  " on "%-18s" off " %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tidegate needs Python 3.11 or newer; set PYTHON=python3.x" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); this takes a minute or some ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(INSTALLED) ## Make the virtual environment and install Tidegate with its tools
	@echo "ready: $(BIN)/tidegate"

demo: $(INSTALLED) ## Serve, scale, drain and explain one model on this machine (TRACE=file replays a trace, ARGS=...)
	@$(if $(ON_KAFKA),$(BIN)/python -m tests.support.kafka_jars)
	@mkdir -p build && $(ON_KAFKA) $(BIN)/tidegate demo $(if $(TRACE),--trace $(TRACE)) $(ARGS)

demo-slurm: $(INSTALLED) ## The same with replicas as jobs of a real Slurm on this machine, one renewed before its wall time
	@$(ON_SUITE) $(BIN)/python -m tests.support.slurm_here run -- $(BIN)/tidegate demo --slurm gpu $(ARGS)

slurm-up: $(INSTALLED) ## Start a real Slurm on this machine (SUITE=trixie or forky: a newer release) and print what site.yaml needs
	@$(ON_SUITE) $(BIN)/python -m tests.support.slurm_here up $(SUITE)

slurm-down: $(INSTALLED) ## End what slurm-up started (SUITE=...)
	@$(BIN)/python -m tests.support.slurm_here down $(SUITE)

kafka-up: $(INSTALLED) ## Start a real Kafka on this machine (NODES=1 or 3) and print what site.yaml needs
	@$(BIN)/python -m tests.support.kafka_jars
	@$(BIN)/python -m tests.support.kafka_here up --nodes $(NODES)

kafka-down: $(INSTALLED) ## End what kafka-up started
	@$(BIN)/python -m tests.support.kafka_here down

test: $(INSTALLED) ## Run the tests (ARGS=... goes to pytest, in WORKERS=3 processes)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slurm: $(INSTALLED) ## Slurm's clients and the life cycle on a real Slurm, by each transport (SUITE=..., ARGS=...)
	@$(ON_SUITE) $(BIN)/python -m pytest -m integration tests/contracts/test_slurm_clients.py tests/integration/slurm $(ARGS)

test-kafka: $(INSTALLED) ## The log and its commands on a real Kafka (ARGS=...)
	@$(BIN)/python -m tests.support.kafka_jars
	@$(BIN)/python -m pytest -m integration tests/contracts/test_logs.py tests/integration/kafka $(ARGS)

faults: $(INSTALLED) ## Kill the broker, replicas and gateways at every point, under load
	@$(BIN)/python -m pytest -m "faults or integration" tests/faults --ignore tests/faults/slurm --ignore tests/faults/kafka $(ARGS)

faults-slurm: $(INSTALLED) ## Do all of that to jobs on a real Slurm of this machine: about 30 minutes
	@$(BIN)/python -m pytest -m "faults or integration" tests/faults/slurm $(ARGS)

faults-kafka: $(INSTALLED) ## Kill and pause brokers whose log is in a real Kafka, and Kafka itself: about 45 minutes
	@$(BIN)/python -m tests.support.kafka_jars
	@$(BIN)/python -m pytest -m "faults or integration" tests/faults/kafka $(ARGS)

test-vllm: $(INSTALLED) ## A real vLLM on CPU as the engine of a Slurm job (first installs 5 GB into build/vllm)
	@$(BIN)/python -m tests.support.real_vllm
	@$(BIN)/python -m pytest -m integration tests/integration/slurm/test_real_vllm.py -rA $(ARGS)

check: $(INSTALLED) ## Lint, types and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED) ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(INSTALLED) ## Generate the documents that come from code (schemas, configuration, API, command line)
	@$(BIN)/python -m broker.model.json_schema docs/schemas
	@$(BIN)/python -m simulator.report docs/schemas
	@$(BIN)/python -m broker.app.settings docs
	@$(BIN)/python -m broker.app docs/openapi.json
	@$(BIN)/python -m cli.reference docs/cli.md

release-schemas: $(INSTALLED) ## Keep today's schemas as those of a release, which later ones must be able to read
	@$(BIN)/python -m tests.support.schema_changes

benchmarks: $(INSTALLED) ## Run the benchmarks (ARGS="NAME ..."; --list names them), one JSON line each
	@$(BIN)/python -m benchmarks $(ARGS)

benchmarks-dynamo: $(INSTALLED) ## Install NVIDIA's replay into an environment of its own and run sim_vs_dynamo
	@test -x build/dynamo-venv/bin/python || $(PYTHON) -m venv build/dynamo-venv
	@build/dynamo-venv/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/dynamo-requirements.txt
	@$(BIN)/python -m benchmarks sim_vs_dynamo

accuracy: $(INSTALLED) ## Hold the simulator against measurements (ARGS="--json", ARGS="NAME ..."; --list names them)
	@$(BIN)/python -m accuracy $(ARGS)

wheel-check: $(INSTALLED) ## Build the wheel, install it into a clean environment, import every package
	@rm -rf build/wheel-check && mkdir -p build/wheel-check
	@$(BIN)/python -m build --wheel --outdir build/wheel-check . >/dev/null
	@$(PYTHON) -m venv build/wheel-check/venv
	@build/wheel-check/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build/wheel-check/*.whl
	@cd build/wheel-check && venv/bin/python $(CURDIR)/tests/support/imported.py
	@build/wheel-check/venv/bin/tidegate --version

clean: ## Remove the virtual environment and everything built
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
