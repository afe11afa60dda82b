#!/usr/bin/env bash
# Makes this machine able to build Spandrel, and says what it does.
#
# Needed: cargo, a C++ compiler, and libclang (RocksDB's Rust bindings are generated with it at build time). Only
# libclang is installed when it is missing, through the system's package manager; the rest is asked for.
# Runs without questions where there is no terminal. With SPANDREL_SETUP=check nothing is installed.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "setup: $*"; }
fail() {
    echo "setup: $1" >&2
    shift
    for line in "$@"; do echo "       $line" >&2; done
    exit 1
}

# --- cargo -----------------------------------------------------------------------------------------------------------
check_cargo() {
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        fail "cargo is installed but not on PATH" "run: . \"${CARGO_HOME:-$HOME/.cargo}/env\""
    fi
    command -v cargo >/dev/null || fail "cargo is missing" "install Rust from https://rustup.rs"
    local wanted have
    wanted="$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)"
    have="$(cargo --version | cut -d' ' -f2)"
    if [ "$(printf '%s\n%s\n' "$wanted" "${have%%-*}" | sort -V | head -n1)" != "$wanted" ]; then
        fail "Rust $have is too old: $wanted or later is needed" "run: rustup update stable"
    fi
}

# --- C++ compiler ----------------------------------------------------------------------------------------------------
check_compiler() {
    local name
    for name in "${CXX:-}" c++ g++ clang++; do
        if [ -n "$name" ] && command -v "${name%% *}" >/dev/null; then return; fi
    done
    fail "a C++ compiler is missing (RocksDB is C++20)" \
        "Debian, Ubuntu: apt-get install g++      Fedora: dnf install gcc-c++    Arch: pacman -S gcc" \
        "Alpine: apk add g++                      macOS: xcode-select --install"
}

# --- libclang --------------------------------------------------------------------------------------------------------
# The places where the build looks: LIBCLANG_PATH, llvm-config, and the usual folders.
libclang() {
    local folder file
    if [ -n "${LIBCLANG_PATH:-}" ]; then
        if [ -f "$LIBCLANG_PATH" ]; then echo "$LIBCLANG_PATH" && return; fi
        folders=("$LIBCLANG_PATH")
    else
        folders=(
            "$("${LLVM_CONFIG_PATH:-llvm-config}" --libdir 2>/dev/null || true)"
            /usr/lib/llvm*/lib /usr/lib/*-linux-*/ /usr/lib64 /usr/lib64/llvm*/lib /usr/lib /usr/lib/llvm*/lib64
            /usr/local/lib /usr/local/llvm*/lib /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib
            /Library/Developer/CommandLineTools/usr/lib
            /Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib
        )
    fi
    for folder in "${folders[@]}"; do
        [ -n "$folder" ] || continue
        for file in "$folder"/libclang.so "$folder"/libclang.so.* "$folder"/libclang-[0-9]*.so* \
            "$folder"/libclang.dylib; do
            if [ -f "$file" ]; then echo "$file" && return; fi
        done
    done
}

# Runs a command as root: directly, or through sudo or doas, without a question where nobody can answer it.
as_root() {
    local ask=()
    [ -t 0 ] || ask=(-n)
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo ${ask[@]+"${ask[@]}"} "$@"
    elif command -v doas >/dev/null; then
        doas ${ask[@]+"${ask[@]}"} "$@"
    else
        echo "setup: not root, and neither sudo nor doas is here" >&2
        return 1
    fi
}

install_libclang() {
    local by command
    if command -v apt-get >/dev/null; then
        by=apt command="apt-get install -y libclang-dev"
    elif command -v dnf >/dev/null; then
        by=dnf command="dnf install -y clang-devel"
    elif command -v pacman >/dev/null; then
        by=pacman command="pacman -S --noconfirm --needed clang"
    elif command -v apk >/dev/null; then
        by=apk command="apk add clang-dev"
    elif command -v brew >/dev/null; then
        by=brew command="brew install llvm"
    else
        fail "libclang is missing and no known package manager (apt, dnf, pacman, apk, brew) is here" \
            "install libclang, or set LIBCLANG_PATH to the folder that has it, and run 'make setup' again"
    fi
    if [ "${SPANDREL_SETUP:-}" = check ]; then
        fail "libclang is missing" "install it: $command"
    fi
    say "libclang is missing: RocksDB's Rust bindings are generated with it at build time"
    say "installing it through $by: $command"
    local log
    log="$(mktemp)"
    # shellcheck disable=SC2086 # The command is split into words on purpose.
    case "$by" in
        apt) { as_root apt-get update || true; as_root env DEBIAN_FRONTEND=noninteractive $command; } ;;
        brew) $command ;;
        *) as_root $command ;;
    esac >"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        rm -f "$log"
        fail "that did not work (its last lines are above)" "install libclang yourself, as root: $command" \
            "or set LIBCLANG_PATH to a folder that has it; then run 'make setup' again"
    }
    rm -f "$log"
}

check_cargo
check_compiler
found="$(libclang)"
if [ -z "$found" ] && [ -n "${LIBCLANG_PATH:-}" ]; then
    fail "LIBCLANG_PATH is $LIBCLANG_PATH, but there is no libclang" "correct it or unset it"
fi
if [ -z "$found" ]; then
    install_libclang
    found="$(libclang)"
    [ -n "$found" ] || fail "libclang was installed but is not found" "set LIBCLANG_PATH to the folder that has it"
fi
say "ready: $(cargo --version), C++ compiler, $found"

target="${CARGO_TARGET_DIR:-target}"
if ! compgen -G "$target/*/build/librocksdb-sys-*/out/librocksdb.a" >/dev/null; then
    say "the first build compiles RocksDB from C++: 10 to 15 minutes on 2 cores, less on more; later builds reuse it"
fi
