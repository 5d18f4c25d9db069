#!/usr/bin/env bash
# Installs what building and testing needs where it is missing (Debian, Ubuntu), or says exactly what is missing.
# Exit status 2: something is missing and was not installed.
# Usage: bash tools/install-packages.sh [tests | tsan | coverage]   also what single tests use, or what that kind of test needs
set -euo pipefail

# package, how to see that it is there: "command NAME", "header FILE", or "clang OPTION": with which Clang makes a program
needs='
build-essential       command c++
build-essential       command make
cmake                 command cmake
ninja-build           command ninja
pkg-config            command pkg-config
sqlite3               command sqlite3
libdnnl-dev           header dnnl.h
libsentencepiece-dev  header sentencepiece_processor.h
libjansson-dev        header jansson.h
libcsv-dev            header csv.h
libcmocka-dev         header cmocka.h
libyaml-dev           header yaml.h
libsqlite3-dev        header sqlite3.h
libxxhash-dev         header xxhash.h
zlib1g-dev            header zlib.h
libopenmpi-dev        command mpicc
openmpi-bin           command mpirun
'

# A test that uses one of these is skipped without it: no failure where it cannot be installed.
wanted=
case ${1:-} in
"") ;;
tests) wanted='
cppcheck              command cppcheck
valgrind              command valgrind
' ;;
tsan) needs+='
clang                 command clang++
libclang-rt-dev       clang -fsanitize=thread
libomp-dev            clang -fopenmp=libomp
' ;;
coverage) needs+='
gcovr                 command gcovr
' ;;
*)
    echo "usage: install-packages.sh [tests | tsan | coverage]" >&2
    exit 2
    ;;
esac

# What other systems call them, for people.
describe() {
    case $1 in
    build-essential) echo "a C11 and C++17 compiler (GCC or Clang) and make" ;;
    cmake) echo "CMake 3.22 or newer" ;;
    ninja-build) echo "Ninja" ;;
    pkg-config) echo "pkg-config" ;;
    sqlite3) echo "the sqlite3 program" ;;
    libdnnl-dev) echo "oneDNN 2.6 to 3.x (dnnl.h)" ;;
    libsentencepiece-dev) echo "SentencePiece with its training library (sentencepiece_processor.h)" ;;
    libjansson-dev) echo "jansson 2.14 or newer (jansson.h)" ;;
    libcsv-dev) echo "libcsv 3 (csv.h)" ;;
    libcmocka-dev) echo "cmocka 1.1.5 or newer (cmocka.h)" ;;
    libyaml-dev) echo "libyaml 0.2 (yaml.h)" ;;
    libsqlite3-dev) echo "SQLite 3.38 or newer (sqlite3.h)" ;;
    libxxhash-dev) echo "xxHash 0.8 or newer (xxhash.h)" ;;
    zlib1g-dev) echo "zlib (zlib.h)" ;;
    libopenmpi-dev) echo "an MPI with its compiler wrapper mpicc" ;;
    openmpi-bin) echo "the mpirun of that MPI" ;;
    clang) echo "Clang (clang, clang++)" ;;
    gcovr) echo "gcovr 5 or newer" ;;
    libclang-rt-dev) echo "Clang's runtime libraries of the sanitizers (compiler-rt)" ;;
    libomp-dev) echo "LLVM's OpenMP runtime with Archer (libomp.so, libarcher.so)" ;;
    esac
}

is_there() { # kind, name
    case $1 in
    command) command -v "$2" > /dev/null ;;
    header) printf '#include <%s>\n' "$2" | c++ -E -x c++ - > /dev/null 2>&1 ;;
    clang) echo 'int main(void) { return 0; }' | clang -x c "$2" -o /dev/null - > /dev/null 2>&1 ;;
    esac
}

missing_by_looking() { # table
    while read -r package kind name; do
        [ -z "$package" ] || is_there "$kind" "$name" || echo "$package"
    done <<< "$1" | sort -u
}

# A tool counts as there wherever it comes from; a library only as its package.
missing_packages() { # table
    while read -r package kind name; do
        [ -n "$package" ] || continue
        if [ "$kind" != header ] && is_there "$kind" "$name"; then continue; fi
        dpkg -s "$package" 2> /dev/null | grep -q '^Status: install ok installed' || echo "$package"
    done <<< "$1" | sort -u | tr '\n' ' '
}

if ! command -v apt-get > /dev/null || ! command -v dpkg > /dev/null; then
    missing=$(missing_by_looking "$needs")
    [ -n "$missing" ] || exit 0
    echo "missing here, to be installed with the system's package manager:" >&2
    for package in $missing; do
        echo "  $(describe "$package")" >&2
    done
    exit 2
fi

missing=$(missing_packages "$needs")
unasked=$(missing_packages "$wanted")
[ -n "$missing$unasked" ] || exit 0
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if [ -n "$missing" ] && ! command -v sudo > /dev/null; then
        echo "missing packages; install them as root: apt-get install $missing$unasked" >&2
        exit 2
    fi
    as_root=(sudo)
    [ -n "$missing" ] || as_root+=(-n) # nobody is asked for a password for what can be done without
fi
echo "installing $missing$unasked"
# shellcheck disable=SC2086 # the package names are words
if ! { "${as_root[@]}" apt-get update -q &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing$unasked; }; then
    if [ -z "$missing" ]; then
        echo "could not install $unasked- tests that use it are skipped" >&2
        exit 0
    fi
    echo "could not install; missing packages: $missing$unasked" >&2
    exit 2
fi
