# The targets are thin: deploy/ holds what they do. RUNTIME=docker or RUNTIME=local overrides the choice of runtime.

# The environment's Python if there is one, else the first that is 3.11 or newer; or name one: make PYTHON=/path/to/python3.12
PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$each"; break; }; done)
DEPLOY = $(if $(wildcard .venv/bin/python),.venv/bin/python,$(or $(PYTHON),$(error No Python 3.11 or newer was \
	found. Install one, or name it: make PYTHON=/path/to/python3.11))) -m deploy
VENV = .venv/bin
# RUN: packages that run the demonstration. DEV: these and the tools of `make check`.
RUN = .venv/.installed-run
DEV = .venv/.installed-dev

.DEFAULT_GOAL := help
.SUFFIXES:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory --no-builtin-rules
# Tests and commands start hundreds of processes; without compiled files each one compiles its modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: applications help install install-dev start stop restart status health test load running \
	check check-long check-compiled compiled coverage fuzz chaos bench bench-calls bench-cores bench-growth bench-memory bench-watching bench-extras bench-tools soak lock schema kubernetes clean \
	logs redis-keys redis-cli redis-monitor top

help: ## list the targets
	@colour=; plain=; if [ -t 1 ] && [ -z "$$NO_COLOR" ]; then colour=$$(printf '\033[36m'); plain=$$(printf '\033[0m'); fi; \
	sed -n 's/^\([a-z0-9-][a-z0-9 -]*\):[^#]*## \(.*\)/\1	\2/p' $(firstword $(MAKEFILE_LIST)) | \
	while IFS='	' read -r name text; do printf '%s%-15s%s %s\n' "$$colour" "$$name" "$$plain" "$$text"; done
	@printf '\n%s\n' 'Variables: RUNTIME=docker|local  REDIS_URL= REDIS_PASSWORD=  REDIS_PORT= PROXY1_PORT= APP1_PORT= ADMIN1_PORT= …  CONFIG='

# -- the demonstration ------------------------------------------------------------------------------------------------

install: $(RUN) ## create .venv with the command .venv/bin/sidegate
	@echo "installed: .venv/bin/sidegate"
start: $(RUN) ## start the store, three apps and three sidecars; return when all are healthy
	@$(DEPLOY) start
stop: ## drain and stop what `make start` started
	@$(DEPLOY) stop
restart: $(RUN) ## restart sidecars and apps, one pair after the other; no request in flight is lost, buckets stay
	@$(DEPLOY) restart
status: ## list the processes with uptime and address; fails if one does not run
	@$(DEPLOY) status
health: ## GET /health of the three sidecars
	@$(DEPLOY) health
test: running $(RUN) ## 15 requests of a new user over the three sidecars: 10 pass, 5 get 429 (USER_ID=…)
	@$(DEPLOY) load test
load: running $(RUN) ## load test: make load ARGS='--users 20 --concurrency 16 --duration 10'
	@$(DEPLOY) load load
running:
	@$(DEPLOY) running

# -- inspection -------------------------------------------------------------------------------------------------------

logs: ## follow all logs (LINES=50 FOLLOW=0: print their ends); one log: logs-app1…3 logs-proxy1…3 logs-redis
	@$(DEPLOY) logs
LOGS = $(foreach number,1 2 3,logs-app$(number) logs-proxy$(number)) logs-redis
.PHONY: $(LOGS)
$(LOGS):
	@$(DEPLOY) logs $(@:logs-%=%)
redis-keys: $(RUN) ## list the buckets in the store with their time to live (PATTERN='example:*')
	@$(DEPLOY) redis-keys
redis-cli: $(RUN) ## open a Redis prompt, or run one command: make redis-cli ARGS='HGETALL example:ratelimit:user-123'
	@$(DEPLOY) redis-cli
top: $(RUN) ## show limits and refused keys live (ARGS='--once'); the dashboard is at http://localhost:9081/
	@$(DEPLOY) top
redis-monitor: $(RUN) ## print every command that the store receives
	@$(DEPLOY) redis-cli MONITOR

# -- development ------------------------------------------------------------------------------------------------------

install-dev: $(DEV) ## install the tools of `make check` into .venv (about 500 MB)
check: $(DEV) ## lint, check format and types, run the tests
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/python -m pytest --numprocesses 4 --dist worksteal --ignore=tests/applications -m 'not long' $(ARGS)
check-long: $(DEV) ## run the tests that take more than about five seconds each; CI runs them after `make check`
	$(VENV)/python -m pytest --numprocesses 2 --dist worksteal --ignore=tests/applications -m long $(ARGS)
compiled: $(DEV) ## build a wheel with the path of a request compiled by mypyc into dist/, and unpack it into build/compiled
	@rm -rf build/compiled dist/sidegate-*-cp*.whl
	@SIDEGATE_COMPILE=1 $(VENV)/hatchling build --target wheel --directory dist
	@$(VENV)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target build/compiled dist/sidegate-*-cp*.whl
	@PYTHONPATH=build/compiled $(VENV)/python -m sidegate --version
check-compiled: compiled ## run the tests of the path of a request against the compiled build
	PYTHONPATH=$(CURDIR)/build/compiled $(VENV)/python -m pytest --numprocesses 4 --dist worksteal -m 'not long' \
		tests/decision tests/edge tests/store tests/telemetry tests/test_exactness.py $(ARGS)
coverage: $(DEV) ## measure what the quick tests cover of the package; fails below the floor in pyproject.toml
	@rm -rf .coverage-data && mkdir .coverage-data
	@$(VENV)/coverage run -m pytest -q --numprocesses 4 --dist worksteal \
		-m 'not slow and not long' tests/decision tests/config tests/telemetry tests/store tests/edge $(ARGS)
	@$(VENV)/coverage combine -q
	@$(VENV)/coverage report
fuzz: $(DEV) ## search for bytes that break the HTTP readers, for SECONDS=60
	@$(VENV)/python -m tests.edge.fuzz --seconds $(or $(SECONDS),60)
chaos: $(DEV) ## load three sidecars while their store is killed, stopped, full, slow or wrong; print a table (ARGS='FA04 --span 6')
	@$(VENV)/python -m tests.chaos $(ARGS)
bench: $(DEV) ## compare CPU, latency and memory with nginx+Lua, Traefik and Envoy; writes results.md (ARGS=--quick)
	@$(DEPLOY) bench-tools || echo "bench: continues without them" >&2
	@$(VENV)/python -m benchmarks.bench $(ARGS)
bench-growth: $(DEV) ## measure how cost grows with policies, buckets, overrides, callers, bodies and sidecars; 3 minutes
	@$(DEPLOY) bench-tools || echo "bench: continues without them" >&2
	@$(VENV)/python -m benchmarks.bench.growth $(ARGS)
bench-cores: $(DEV) ## compare the throughput of two workers with that of one; half a minute
	@$(VENV)/python -m benchmarks.bench.cores $(ARGS)
bench-calls: $(DEV) ## count function calls per request, allowed and refused (ARGS='--functions 40' lists them)
	@$(VENV)/python -m benchmarks.bench.calls $(ARGS)
bench-memory: $(DEV) ## measure memory with 4,096 idle connections and with 4,096 half-sent heads; 20 seconds
	@$(VENV)/python -m benchmarks.bench.idle_memory $(ARGS)
bench-watching: $(DEV) ## measure the overhead of scrapes, dashboard and top; 5 minutes (ARGS='--pairs 10')
	@$(VENV)/python -m benchmarks.bench.watching $(ARGS)
bench-extras: $(DEV) ## measure the overhead of request ids, spans, the log of all requests, and kinds of limit; 4 minutes
	@$(VENV)/python -m benchmarks.bench.extras $(ARGS)
bench-tools: ## install the peers and the chart library of `make bench` into .venv-bench
	@$(DEPLOY) bench-tools
soak: $(DEV) ## run mixed traffic with errors, reloads and clients that leave: make soak SECONDS=600
	@$(VENV)/python -m benchmarks.soak $(or $(SECONDS),600)
applications: $(DEV) ## run each recipe of docs/applications.md with the real servers, installed into .venv-apps
	@$(DEPLOY) applications
	$(VENV)/python -m pytest --numprocesses 2 --dist loadscope tests/applications $(ARGS)
lock: $(DEV) ## write the pinned versions in requirements/ (ARGS=--upgrade for newer ones)
	@$(VENV)/python -m deploy.locks $(ARGS)
schema: $(RUN) ## write the JSON Schema of the configuration to docs/config.schema.json
	@$(VENV)/sidegate schema > docs/config.schema.json
kubernetes: $(DEV) ## render deploy/kubernetes/base from the Helm chart
	@$(DEPLOY) kubernetes
clean: ## stop, and remove .venv, .venv-tools, .venv-bench, .venv-helm, .run and caches
	@$(or $(PYTHON),python3) -m deploy clean

$(RUN): pyproject.toml requirements/run.txt
	@$(DEPLOY) install
	@touch $@
$(DEV): pyproject.toml requirements/dev.txt
	@$(DEPLOY) install-dev
	@touch $(RUN) $@
