#!/usr/bin/env bash
# Runs the tests of index/src/simd in Bochs, an emulator that has AVX-512 with VNNI where this machine has not.
#
# usage: scripts/emulate/run.sh [NAMES OF TESTS]      a minute for most tests; hours for all of them
#
# Needs Debian's bochs, bochsbios, vgabios, bochs-term, grub-pc-bin, xorriso, mtools, and gcc. The tests are linked into
# one static program that a small kernel (boot.S, kernel.c) starts; an operating system would take longer to boot.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
index="$here/../../index/src"
work="${CARGO_TARGET_DIR:-$here/../../target}/emulate"
mkdir -p "$work/tests/src" "$work/iso/boot/grub"
cd "$work"

# The kernels alone: a crate of two modules of spandrel-index.
cat >tests/Cargo.toml <<EOF
[package]
name = "kernels"
version = "0.0.0"
edition = "2024"
[dependencies]
half = "2.7"
[profile.dev]
opt-level = 2
[workspace]
EOF
cat >tests/src/lib.rs <<EOF
#![allow(dead_code)]
#[path = "$index/matrix.rs"]
pub mod matrix;
#[path = "$index/simd/mod.rs"]
pub mod simd;
EOF
# With a target named, these flags are the program's alone and not those of macros that run here.
built="$(cd tests && RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
    cargo test --quiet --lib --no-run --target x86_64-unknown-linux-gnu --target-dir "$work/target" \
    --message-format json | grep -o '"executable":"[^"]*"' | cut -d'"' -f4)"
strip -o program "$built"

arguments='"tests", "--test-threads=1"'
for argument in "$@"; do arguments+=", \"$argument\""; done
gcc -c "$here/boot.S" -o boot.o -I "$work" -Wa,-I"$work"
gcc -c -O2 -Wall -Wextra -ffreestanding -fno-pie -mno-red-zone -mgeneral-regs-only -fno-stack-protector \
    -DARGUMENTS="$arguments" "$here/kernel.c" -o kernel.o
ld -nostdlib -z max-page-size=4096 --no-warn-rwx-segments -T "$here/link.ld" boot.o kernel.o -o kernel64
objcopy -I elf64-x86-64 -O elf32-i386 kernel64 iso/boot/kernel
printf 'set timeout=0\nset default=0\nmenuentry kernel { multiboot /boot/kernel\n boot }\n' >iso/boot/grub/grub.cfg
grub-mkrescue -o disc.iso iso 2>/dev/null

cat >bochsrc <<EOF
megs: 1024
cpu: model=corei7_icelake_u, count=1, ips=100000000, reset_on_triple_fault=0
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$work/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/serial.txt
display_library: term
log: $work/log.txt
panic: action=fatal
EOF
# Debian's Bochs stops in its debugger first.
echo continue >commands
rm -f serial.txt input
mkfifo input
: >serial.txt
bochs -q -f bochsrc -rc commands <>input >bochs.txt 2>&1 &
trap 'kill "$!" 2>/dev/null || true' EXIT
shown=0
while kill -0 "$!" 2>/dev/null; do
    sleep 2
    size="$(stat -c %s serial.txt)"
    tail -c "+$((shown + 1))" serial.txt | head -c "$((size - shown))"
    shown="$size"
    if grep -q -E '^(EXIT (passed|failed)|FAULT)' serial.txt; then break; fi
done
tail -c "+$((shown + 1))" serial.txt
grep -q '^EXIT passed' serial.txt
