#!/usr/bin/env bash
# Installs what the named suites need and this machine lacks: setup.sh [compilers] [softhsm] [peers] [postgres] [programs] [cargo-tools]
# As root it installs system packages itself; otherwise it says which to install.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

NEXTEST_VERSION=0.9.143
DENY_VERSION=0.20.2

system_package() { # command package
    type -P "$1" >/dev/null || install_package "$1" "$2"
}

install_package() { # what-is-missing package
    if [ "$(id -u)" -eq 0 ] && have apt-get; then
        say "installing system package $2"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
    else
        die "'$1' is missing: install the package $2 (Debian: sudo apt-get install $2) and run this again"
    fi
}

softhsm() { system_package softhsm2-util softhsm2; }

# Server and shell for scripts/with-postgres.sh. The package would make and start a database cluster of its own: this
# keeps it from doing so, and leaves a cluster alone that is there.
postgres() {
    system_package openssl openssl
    if postgres_bin >/dev/null; then
        return
    fi
    local settings=/etc/postgresql-common/createcluster.d
    if [ "$(id -u)" -eq 0 ] && have apt-get; then
        trap 'rm -f /etc/postgresql-common/createcluster.d/countersign.conf' EXIT
        mkdir -p "$settings"
        printf 'create_main_cluster = false\n' >"$settings/countersign.conf"
    fi
    install_package "the PostgreSQL server" postgresql
    rm -f "$settings/countersign.conf"
    postgres_bin >/dev/null || die "the package postgresql brought no initdb"
}

# The package would start a web server on port 80: this keeps it from doing so.
nginx() {
    if type -P nginx >/dev/null || [ -x /usr/sbin/nginx ]; then
        return
    fi
    local policy=/usr/sbin/policy-rc.d
    if [ "$(id -u)" -eq 0 ] && have apt-get && [ ! -e "$policy" ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        install_package nginx nginx
        rm -f "$policy"
    else
        install_package nginx nginx
    fi
}

# libFuzzer is C++, which the build compiles.
compilers() { system_package g++ g++; }

# What tests and benches look at the appliance with.
programs() {
    system_package curl curl
    system_package kill procps
    nginx
    system_package oathtool oathtool
    system_package openssl openssl
    system_package pkcs11-tool opensc
    system_package python3 python3
    system_package sqlite3 sqlite3
    system_package strace strace
}

# Local Ethereum nodes and ethers.js, at the versions of tests/peers/package-lock.json.
peers() {
    if ! have node || ! have npm; then
        die "node (20 or later) and npm are needed for the local Ethereum nodes"
    fi
    mkdir -p target/peers
    cp tests/peers/*.js tests/peers/package.json target/peers/
    if ! cmp -s tests/peers/package-lock.json target/peers/installed; then
        say "installing anvil, hardhat and ethers into target/peers"
        cp tests/peers/package-lock.json target/peers/
        # `npm ci` would refuse the lock: it cannot hold the anvil packages of all platforms.
        # Install scripts stay off: nothing here needs them, and the anvil binary is in its package.
        (cd target/peers && npm install --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null) \
            || die "npm could not install the packages of tests/peers"
        cp tests/peers/package-lock.json target/peers/installed
    fi
    local anvil
    for anvil in target/peers/node_modules/@foundry-rs/anvil-*/bin/anvil; do
        [ -x "$anvil" ] || die "the npm package of anvil has no binary for this machine"
        ln -sf "${anvil#target/peers/}" target/peers/anvil
    done
}

cargo_tool() { # name version cargo-flags...
    local name=$1 version=$2 found
    shift 2
    found=$(cargo "${name#cargo-}" --version 2>/dev/null | awk 'NR == 1 {print $2}') || true
    if [ -n "$found" ] && [ "$(printf '%s\n' "$version" "$found" | sort -V | head -1)" = "$version" ]; then
        return
    fi
    say "building $name $version with cargo install (once, several minutes)"
    # A quick build: these tools mostly wait for other programs.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=64 \
        CARGO_PROFILE_RELEASE_DEBUG=false cargo install --quiet --locked "$@" "$name@$version"
}

cargo_tools() {
    cargo_tool cargo-nextest "$NEXTEST_VERSION" --no-default-features
    cargo_tool cargo-deny "$DENY_VERSION"
}

have cargo || die "Rust is missing: install it with rustup (rust-toolchain.toml names the version)"
for part in "$@"; do
    case $part in
        compilers) compilers ;;
        softhsm) softhsm ;;
        peers) peers ;;
        postgres) postgres ;;
        programs) programs ;;
        cargo-tools) cargo_tools ;;
        *) die "setup.sh: unknown part '$part'" ;;
    esac
done
