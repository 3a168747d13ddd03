# Thin on purpose: what the targets do stands in deploy/. RUNTIME=docker or RUNTIME=local overrides the choice.

# The environment's Python where there is one, else any from 3.11 on: `make PYTHON=/path/to/python3.12` names another.
PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$each"; break; }; done)
DEPLOY = $(if $(wildcard .venv/bin/python),.venv/bin/python,$(or $(PYTHON),$(error No Python 3.11 or newer was \
	found. Install one, or name it: make PYTHON=/path/to/python3.11))) -m deploy
STAMP = .venv/.installed
VENV = .venv/bin

.DEFAULT_GOAL := help
.SUFFIXES:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory --no-builtin-rules

.PHONY: help install start stop restart status health test load check chaos bench bench-cores bench-growth bench-watching bench-extras bench-tools soak lock schema clean logs redis-keys redis-cli redis-monitor top

help: ## this list
	@colour=; plain=; if [ -t 1 ] && [ -z "$$NO_COLOR" ]; then colour=$$(printf '\033[36m'); plain=$$(printf '\033[0m'); fi; \
	sed -n 's/^\([a-z0-9-][a-z0-9 -]*\):[^#]*## \(.*\)/\1	\2/p' $(firstword $(MAKEFILE_LIST)) | \
	while IFS='	' read -r name text; do printf '%s%-15s%s %s\n' "$$colour" "$$name" "$$plain" "$$text"; done
	@printf '\n%s\n' 'Variables: RUNTIME=docker|local  REDIS_URL= REDIS_PASSWORD=  REDIS_PORT= PROXY1_PORT= APP1_PORT= ADMIN1_PORT= …  CONFIG='

# -- the demonstration ------------------------------------------------------------------------------------------------

install: $(STAMP) ## set up .venv with the command .venv/bin/sidegate
	@echo "installed: .venv/bin/sidegate"
start: $(STAMP) ## start the store, three apps and three sidecars; return when all are healthy
	@$(DEPLOY) start
stop: ## stop exactly what was started; requests in flight end first
	@$(DEPLOY) stop
restart: $(STAMP) ## renew sidecars and apps, one pair after the other; no request in flight is lost, buckets stay
	@$(DEPLOY) restart
status: ## what runs, since when, where; fails where something does not
	@$(DEPLOY) status
health: ## ask the three sidecars for their health
	@$(DEPLOY) health
test: $(STAMP) ## 15 requests of one fresh user over the three sidecars: 10 pass, 5 get 429 (USER_ID=…)
	@$(DEPLOY) load test
load: $(STAMP) ## more of them: make load ARGS='--users 20 --concurrency 16 --duration 10'
	@$(DEPLOY) load load

# -- looking inside ---------------------------------------------------------------------------------------------------

logs: ## follow all logs (LINES=50 FOLLOW=0: only their ends); one: logs-app1…3 logs-proxy1…3 logs-redis
	@$(DEPLOY) logs
LOGS = $(foreach number,1 2 3,logs-app$(number) logs-proxy$(number)) logs-redis
.PHONY: $(LOGS)
$(LOGS):
	@$(DEPLOY) logs $(@:logs-%=%)
redis-keys: $(STAMP) ## the buckets in the store, with their time to live (PATTERN='example:*')
	@$(DEPLOY) redis-keys
redis-cli: $(STAMP) ## a prompt at the store, or one command: make redis-cli ARGS='HGETALL example:ratelimit:user-123'
	@$(DEPLOY) redis-cli
top: $(STAMP) ## what is limited, live in the terminal (ARGS='--once'); the dashboard is at http://localhost:9081/
	@$(DEPLOY) top
redis-monitor: $(STAMP) ## every command as it reaches the store
	@$(DEPLOY) redis-cli MONITOR

# -- development ------------------------------------------------------------------------------------------------------

check: $(STAMP) ## lint, format, types, the whole test suite
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/python -m pytest --numprocesses 4 --dist worksteal $(ARGS)
.PHONY: fuzz
fuzz: $(STAMP) ## search for bytes that break the edge, for SECONDS=60
	@$(VENV)/python -m tests.edge.fuzz --seconds $(or $(SECONDS),60)
chaos: $(STAMP) ## what becomes of requests while the store is killed, stopped, full, slow, lying: a table (ARGS='FA04 --span 6')
	@$(VENV)/python -m tests.chaos $(ARGS)
bench: $(STAMP) ## what a request costs beside nginx+Lua, Traefik, Envoy, aiohttp; 9 minutes; writes benchmarks/results.md
	@$(DEPLOY) bench-tools || echo "bench: goes on without them" >&2
	@$(VENV)/python -m benchmarks.bench $(ARGS)
bench-growth: $(STAMP) ## how the cost grows with policies, buckets, overrides, callers, bodies, sidecars; 3 minutes
	@$(DEPLOY) bench-tools || echo "bench: goes on without them" >&2
	@$(VENV)/python -m benchmarks.bench.growth $(ARGS)
bench-cores: $(STAMP) ## how much more two workers serve than one; half a minute
	@$(VENV)/python -m benchmarks.bench.cores $(ARGS)
bench-watching: $(STAMP) ## what it costs to be scraped, followed by a dashboard and asked by top; 5 minutes (ARGS='--pairs 10')
	@$(VENV)/python -m benchmarks.bench.watching $(ARGS)
bench-extras: $(STAMP) ## what request ids, spans and the log of all requests add to a request; 3 minutes
	@$(VENV)/python -m benchmarks.bench.extras $(ARGS)
bench-tools: ## install what bench compares with and draws with (.venv-bench)
	@$(DEPLOY) bench-tools
soak: $(STAMP) ## mixed traffic with errors, reloads and clients that leave: make soak SECONDS=600
	@$(VENV)/python -m benchmarks.soak $(or $(SECONDS),600)
lock: $(STAMP) ## write the pinned versions in requirements/ anew (ARGS=--upgrade for newer ones)
	@$(VENV)/python -m deploy.locks $(ARGS)
schema: $(STAMP) ## write the JSON Schema of configurations to docs/config.schema.json
	@$(VENV)/sidegate schema > docs/config.schema.json
clean: ## stop, and remove .venv, .venv-tools, .venv-bench, .run and caches
	@$(or $(PYTHON),python3) -m deploy clean

$(STAMP): pyproject.toml requirements/dev.txt
	@$(DEPLOY) install
	@touch $@
