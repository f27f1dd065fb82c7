# Everything is installed into .venv. Nothing outside it changes, except that a missing Java or venv module is
# installed with apt-get where this is Debian or Ubuntu and we are root.

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-long test-browser lint format types layers docs test-faults bench-train bench-quality bench-stream bench-recommend bench-serve bench-month \
	soak-stream rapids airflow airflow-setup test-airflow test-rapids kafka-jars kafka-up kafka-down test-kafka pins ci clean

PYTHON ?= python3
BIN := .venv/bin

# Another Spark of this machine has no say here.
unexport SPARK_HOME SPARK_CONF_DIR PYSPARK_PYTHON PYSPARK_DRIVER_PYTHON

# As in an activated environment, with the Java that setup found.
RUN = PATH="$(CURDIR)/$(BIN):$$PATH" JAVA_HOME="$$(cat .venv/java-home)"

# One thread per numeric library call: tests run beside each other and beside Spark. Two for numba, so that its parallel
# code runs in parallel.
# JDK_JAVA_OPTIONS: tests are short, so a JVM that compiles little beats one that compiles well.
TEST_THREADS := JDK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:+UseSerialGC" OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=2

# Processes that share the files of tests, each with a Spark session of its own: one leaves half of two cores idle.
TEST_WORKERS ?= 2

# Airflow has an environment of its own, and finds spark-submit and the Python of jobs in ours.
AIRFLOW = AIRFLOW_HOME="$(CURDIR)/.airflow" AIRFLOW__CORE__DAGS_FOLDER="$(CURDIR)/airflow_dags" \
	AIRFLOW__CORE__LOAD_EXAMPLES=False AIRFLOW__API__HOST=127.0.0.1 AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False \
	PATH="$(CURDIR)/.venv-airflow/bin:$(CURDIR)/$(BIN):$$PATH" \
	JAVA_HOME="$$(cat .venv/java-home)" PYSPARK_PYTHON="$(CURDIR)/$(BIN)/python"

UV_INSTALL = UV_HTTP_TIMEOUT=$${UV_HTTP_TIMEOUT:-300} $(BIN)/uv pip install $$([ -t 2 ] || echo --quiet) \
	--python $(BIN)/python --constraint constraints.txt --build-constraint constraints.txt

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/packages .venv/spark ## install everything into .venv (first time: a few minutes, 7 GB)

demo: setup ## run the whole pipeline on synthetic events, or on your own file: make demo EVENTS=file.csv
	@$(RUN) lakefactor demo $${EVENTS:+--events "$$EVENTS"}

test: setup ## run all tests and doctests (ARGS="-k words" selects), files of them in TEST_WORKERS=2 processes
	@$(RUN) $(TEST_THREADS) python -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile $(ARGS)

test-long: airflow-setup ## run the tests that take minutes, too: kills, streams, DAGs (2 hours; ARGS="-m long" runs these alone)
	@LAKEFACTOR_LONG=1 $(RUN) $(TEST_THREADS) python -m pytest $(ARGS)

test-faults: setup ## kill ranks, executors and drivers of trainings, and streams, 20 times each at random (20 minutes)
	@LAKEFACTOR_KILLS=20 $(RUN) $(TEST_THREADS) python -m pytest tests/spark/test_faults.py tests/stream/test_kills.py $(ARGS)

lint: setup ## check style and formatting with ruff
	@status=0; $(BIN)/ruff check . || status=1; $(BIN)/ruff format --check . || status=1; exit $$status

format: setup ## repair style and formatting with ruff
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

types: setup ## check types with mypy
	@$(BIN)/mypy

layers: setup ## check the layers of the package with import-linter
	@$(BIN)/lint-imports

docs: setup ## regenerate conf/*.toml, docs/tables.md, docs/configuration.md and docs/results.md from code, schemas and raw results
	@$(RUN) python -m lakefactor.contracts.docs
	@$(RUN) python -m lakefactor.config.toml
	@$(RUN) python benchmarks/report.py

bench-train: setup ## the training engine beside MLlib, implicit and scikit-learn (45 minutes; ARGS=PART runs one part)
	@$(RUN) OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/train.py $(ARGS)

bench-quality: setup ## rank and rating metrics on real data, beside implicit and popularity
	@$(RUN) python benchmarks/quality.py $(ARGS)

bench-stream: setup ## micro-batches of a stream beside a retraining by MLlib (30 minutes; ARGS="--events 1000000" is a trial)
	@$(RUN) OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/stream.py $(ARGS)

soak-stream: setup ## a stream at a steady rate for half an hour, with a publish in the middle (ARGS="--minutes 2" is a trial)
	@$(RUN) OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/soak.py $(ARGS)

bench-month: setup ## a month with two shifts of taste: trained nightly, streamed, and both (ARGS="--days 6 --shifts 3 --out FILE" is a trial)
	@$(RUN) $(TEST_THREADS) python benchmarks/month.py $(ARGS)

bench-recommend: setup ## top-100 of 100k users among 50k items beside MLlib and implicit (20 minutes; ARGS="--users 5000" is a trial)
	@$(RUN) OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/recommend.py $(ARGS)

bench-serve: setup ## the HTTP service at 200 requests a second, a publish under load, recall of the index (5 minutes)
	@$(RUN) OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/serve.py $(ARGS)

rapids: setup ## fetch the RAPIDS plugin (1 GB) for its tests, which `make test` then runs too
	@$(RUN) python scripts/fetch_rapids.py

test-rapids: rapids ## compare what our plans leave on the CPU with the kept list (about 2 minutes, no GPU needed)
	@$(RUN) $(TEST_THREADS) python -m pytest tests/spark/test_rapids_plans.py $(ARGS)

kafka-jars: setup ## fetch a Kafka broker and Spark's connector (100 MB) for the tests of it, which `make test` then runs too
	@$(RUN) python scripts/kafka.py fetch

kafka-up: setup ## start an empty Kafka broker at 127.0.0.1:9092 (ARGS="--port 19092" for another port)
	@$(RUN) python scripts/kafka.py up $(ARGS)

kafka-down: setup ## stop that broker
	@$(RUN) python scripts/kafka.py down

test-kafka: kafka-jars ## test streams from Kafka, with a broker of their own (about 1 minute)
	@$(RUN) $(TEST_THREADS) python -m pytest tests/stream/test_kafka.py $(ARGS)

airflow: setup .airflow/ready ## start Airflow with our DAGs at http://127.0.0.1:8080; it prints the password of user admin
	@$(AIRFLOW) airflow standalone

airflow-setup: setup .venv-airflow/ready ## install Airflow (0.5 GB) for the tests of the DAGs, a part of which `make test` then runs too

test-airflow: airflow-setup .venv/browser ## run all tests of the DAGs, and of Airflow's page where Chromium is installed (half an hour)
	@LAKEFACTOR_LONG=1 $(RUN) $(TEST_THREADS) python -m pytest tests/dags $(ARGS)

pins: $(BIN)/uv ## complete constraints.txt after a change of dependencies (ARGS=--upgrade moves every version)
	@UV_CUSTOM_COMPILE_COMMAND="make pins" $(BIN)/uv pip compile pyproject.toml --quiet --all-extras --universal \
		--python-version 3.10 --no-annotate --no-emit-index-url --no-emit-find-links --output-file constraints.txt $(ARGS)
	@UV_CUSTOM_COMPILE_COMMAND="make pins" $(BIN)/uv pip compile airflow_dags/requirements.txt --quiet --universal \
		--python-version 3.10 --no-annotate --no-emit-index-url --no-emit-find-links --output-file constraints-airflow.txt $(ARGS)

ci: ## all checks, as CI runs them
	@.ci/run

clean: ## remove caches and build outputs; keeps .venv and warehouse
	@rm -rf build dist lib/*.egg-info spark-warehouse metastore_db derby.log
	@rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./.venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

# Stamps: each file says that a step is done, and a step runs again when what it depends on has changed.

$(BIN)/uv:
	@PYTHON="$(PYTHON)" scripts/create_venv.sh .venv

.venv/packages: constraints.txt pyproject.toml setup.py | $(BIN)/uv
	@echo "Installing pinned dependencies (1 to 5 minutes, 7 GB)"
	@$(UV_INSTALL) --editable '.[dev,hive]'
	@touch $@

# A remembered Java that has gone is looked for again.
ifeq ($(wildcard $(shell cat .venv/java-home 2>/dev/null)/bin/java),)
.PHONY: .venv/java-home
endif
.venv/java-home: | $(BIN)/uv
	@scripts/find_java.sh > $@
	@echo "Using Java of $$(cat $@)"

.venv/spark: constraints.txt .venv/java-home scripts/prepare_spark.py scripts/check_spark.py | .venv/packages
	@$(BIN)/python scripts/prepare_spark.py --java-home "$$(cat .venv/java-home)"
	@touch $@
	@echo "Ready. To call lakefactor or spark-submit yourself: source $(BIN)/activate"

test-browser: setup .venv/browser ## test the dashboard and the report in Chromium, with axe (3 minutes; LAKEFACTOR_SCREENSHOTS=1 makes the pictures of the docs)
	@$(RUN) $(TEST_THREADS) python -m pytest tests/browser $(ARGS)

.venv/browser: constraints.txt | .venv/packages
	@$(UV_INSTALL) --editable '.[browser]'
	@touch $@

.venv-airflow/ready: constraints-airflow.txt | $(BIN)/uv
	@echo "Installing Airflow into .venv-airflow (1 minute, 0.5 GB)"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-airflow
	@$(BIN)/uv pip install --quiet --python .venv-airflow/bin/python --requirement constraints-airflow.txt
	@touch $@

.airflow/ready: .venv-airflow/ready conf/airflow/connections.json conf/airflow/pools.json
	@echo "Preparing Airflow's database in .airflow"
	@mkdir -p .airflow
	@for command in "db migrate" "connections import --overwrite conf/airflow/connections.json" \
		"pools import conf/airflow/pools.json" "variables set lakefactor_results $(CURDIR)/.airflow/results"; do \
		$(AIRFLOW) airflow $$command > .airflow/setup.log 2>&1 || { cat .airflow/setup.log >&2; exit 1; }; done
	@touch $@
