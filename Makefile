# Everyday commands; `make` lists them. The build itself is CMake's (CMakeLists.txt, CMakePresets.json).
.DEFAULT_GOAL := help
.PHONY: help packages packages-tests build test test-asan test-tsan coverage demo round rounds bench clean

PRESET ?= release
BUILD  := build/$(PRESET)
CONFIG ?= configs/tiny
RUN    ?= runs/$(notdir $(CONFIG))
SEED   ?= 1
ROUNDS  = $(BUILD)/bin/halter-rounds --config $(CONFIG)/rounds.yaml --run $(RUN) --seed $(SEED) $(addprefix --max-minutes ,$(MAX_MINUTES))

help:
	@echo 'make build     build everything into $(BUILD), installing missing packages'
	@echo 'make test      build and run all tests'
	@echo 'make test-asan build with the sanitizers and run the tests that suit them'
	@echo 'make test-tsan build with ThreadSanitizer (Clang) and run the tests that have threads'
	@echo 'make coverage  run the tests and print which lines and branches they reach'
	@echo 'make demo      from nothing to a table of rounds, on the CPU in minutes   [SEED=1]'
	@echo 'make rounds    all rounds of a configuration    [CONFIG=configs/tiny RUN=runs/tiny SEED=1]'
	@echo 'make round N=3 the rounds up to the third       [CONFIG=configs/tiny RUN=runs/tiny SEED=1]'
	@echo '               [MAX_MINUTES=N: save and stop before so many minutes are over]'
	@echo 'make bench     measure (bench/run)'
	@echo 'make clean     remove build/'

packages:
	@bash tools/install-packages.sh

packages-tests:
	@bash tools/install-packages.sh tests

# The generator is chosen once: Ninja where it is, else make.
$(BUILD)/CMakeCache.txt: | packages
	@echo 'configuring $(BUILD)'
	@mkdir -p $(BUILD)
	@cmake --preset $(PRESET) $$(command -v ninja > /dev/null && echo -G Ninja) > $(BUILD)/configure.log 2>&1 \
	  || { cat $(BUILD)/configure.log >&2; rm -f $@; exit 1; }

# On a terminal the build shows itself; elsewhere its warnings and errors are enough.
build: packages $(BUILD)/CMakeCache.txt
	@echo 'building $(BUILD)'
	@if [ -t 1 ]; then cmake --build $(BUILD) --parallel $$(nproc); else \
	  cmake --build $(BUILD) --parallel $$(nproc) > $(BUILD)/build.log 2>&1; status=$$?; \
	  grep -vE '^\[ *[0-9]+[/%]|^ninja: (Entering|no work)|^-- ' $(BUILD)/build.log >&2; exit $$status; fi

test: packages-tests build
	@bash tools/run-tests.sh $(BUILD)

# Left out: most of what starts programs, and minutes of arithmetic on the emulated GPU.
test-asan:
	@$(MAKE) --no-print-directory PRESET=asan build
	@bash tools/run-tests.sh build/asan --exclude-regex '^(pipeline|checks)_|^fault_(kill_resume|database)|^gpu_emulated_test_bf16'

# Left out: what starts programs, and what has one thread.
test-tsan:
	@bash tools/install-packages.sh tsan
	@$(MAKE) --no-print-directory PRESET=tsan build
	@bash tools/run-tests.sh build/tsan --exclude-regex '^(pipeline|checks|fault|unit_annotations)_'

# Left out: what fails a program's system calls in turn, among which would be those that note what was reached; and the emulated
# GPU, whose sources are not counted.
coverage:
	@bash tools/install-packages.sh coverage
	@$(MAKE) --no-print-directory PRESET=coverage build
	@find build/coverage -name '*.gcda' -delete
	@bash tools/run-tests.sh build/coverage --exclude-regex '^(fault|gpu)_'
	@bash tools/coverage.sh build/coverage

demo: build
	@$(BUILD)/bin/halter-rounds --config configs/tiny/demo.yaml --run runs/demo --seed $(SEED) --restart

rounds: build
	@$(ROUNDS)

ifeq ($(N),)
round:
	@echo 'which round? make round N=3' >&2; exit 2
else
round: build
	@$(ROUNDS) --until-round $(N)
endif

bench: build
	@bench/run

clean:
	@rm -rf build
