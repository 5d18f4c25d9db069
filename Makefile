# Everyday commands; `make` lists them. The build itself is CMake's (CMakeLists.txt, CMakePresets.json).
.DEFAULT_GOAL := help
.PHONY: help packages build test demo round rounds bench clean

BUILD  := build/release
CONFIG ?= configs/tiny
RUN    ?= runs/$(notdir $(CONFIG))
SEED   ?= 1
ROUNDS  = $(BUILD)/bin/halter-rounds --config $(CONFIG)/rounds.yaml --run $(RUN) --seed $(SEED)

help:
	@echo 'make build     build everything into $(BUILD), installing missing packages'
	@echo 'make test      build and run all tests'
	@echo 'make demo      from nothing to a table of rounds, on the CPU in minutes   [SEED=1]'
	@echo 'make rounds    all rounds of a configuration    [CONFIG=configs/tiny RUN=runs/tiny SEED=1]'
	@echo 'make round N=3 the rounds up to the third       [CONFIG=configs/tiny RUN=runs/tiny SEED=1]'
	@echo 'make bench     measure'
	@echo 'make clean     remove build/'

packages:
	@bash tools/install-packages.sh

# The generator is chosen once: Ninja where it is, else make.
$(BUILD)/CMakeCache.txt: | packages
	@echo 'configuring $(BUILD)'
	@mkdir -p $(BUILD)
	@cmake --preset release $$(command -v ninja > /dev/null && echo -G Ninja) > $(BUILD)/configure.log 2>&1 \
	  || { cat $(BUILD)/configure.log >&2; rm -f $@; exit 1; }

build: packages $(BUILD)/CMakeCache.txt
	@cmake --build $(BUILD) --parallel $$(nproc)

test: build
	@bash tools/run-tests.sh $(BUILD)

demo: build
	@$(BUILD)/bin/halter-rounds --config configs/tiny/demo.yaml --run runs/demo --seed $(SEED)

rounds: build
	@$(ROUNDS)

round: build
	@if [ -z '$(N)' ]; then echo 'which round? make round N=3' >&2; exit 2; fi
	@$(ROUNDS) --until-round $(N)

bench: build
	@if [ ! -x bench/run ]; then echo 'bench/run is missing' >&2; exit 2; fi
	@bench/run

clean:
	@rm -rf build
