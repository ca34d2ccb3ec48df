# shellcheck shell=bash disable=SC2034
# Finds what builds and runs aarch64 programs on another machine; to be sourced by bash.
#
# find_cross      sets cross_rustc, and the linker for cargo; 1 and a reason in cross_missing if there is none
# install_cross   installs what is missing on Debian and Ubuntu, as root
# install_packages P...   the same for these packages
# check_glibc F   refuses a program that needs a newer C library than JetPack 6 has

cross_target=aarch64-unknown-linux-gnu
# JetPack 6 is Ubuntu 22.04.
glibc_floor=2.35

# A Rust toolchain has the target if it has its library: rustup's after
# `rustup target add aarch64-unknown-linux-gnu`, Debian's rustc-web with libstd-rust-web-dev:arm64.
find_cross() {
    local candidate
    cross_rustc="" cross_missing=""
    for candidate in rustc /usr/bin/rustc; do
        if [ -d "$("$candidate" --print target-libdir --target $cross_target 2>/dev/null)" ]; then
            cross_rustc=$(command -v "$candidate")
            break
        fi
    done
    if [ -z "$cross_rustc" ]; then
        cross_missing="a Rust toolchain for $cross_target"
    elif ! command -v aarch64-linux-gnu-gcc >/dev/null; then
        cross_missing="aarch64-linux-gnu-gcc"
    elif [ "${1:-}" = run ] && ! command -v qemu-aarch64-static >/dev/null; then
        cross_missing="qemu-aarch64-static"
    else
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
        return 0
    fi
    return 1
}

may_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

# Words: packages.
install_packages() {
    may_install || return 1
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

install_cross() {
    may_install || return 1
    # rustup's toolchain may have the target already; then only the linker and the emulator are wanted.
    local packages=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static)
    if [ -z "$cross_rustc" ]; then
        dpkg --add-architecture arm64
        packages+=(rustc-web libstd-rust-web-dev:arm64)
    fi
    install_packages "${packages[@]}"
}

check_glibc() {
    local needed
    # binutils read the symbols of the machine they are for; the foreign ones are installed for a foreign program.
    local objdump=objdump
    if readelf -h "$1" | grep -q AArch64 && [ "$(uname -m)" != aarch64 ]; then
        objdump=aarch64-linux-gnu-objdump
    fi
    needed=$($objdump -T "$1" | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -1)
    needed=${needed#GLIBC_}
    if [ -z "$needed" ]; then
        echo "$1: no versions of the C library found" >&2
        return 1
    fi
    if [ "$(printf '%s\n' "$needed" $glibc_floor | sort -V | tail -1)" != $glibc_floor ]; then
        echo "$1 needs glibc $needed, JetPack 6 has $glibc_floor" >&2
        return 1
    fi
    echo "$(basename "$1") needs glibc $needed; JetPack 6 has $glibc_floor"
}
