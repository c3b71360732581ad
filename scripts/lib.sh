# Shared by the scripts in this folder; source it from the repository's root.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }
warn() { printf 'WARNING: %s\n' "$*" >&2; }
die() { printf 'ERROR: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# Where cargo puts what it builds.
target_dir() { printf '%s' "${CARGO_TARGET_DIR:-$PWD/target}"; }

# The folder of PostgreSQL's server programs: Debian keeps them off the PATH, one folder for each version.
postgres_bin() {
    local initdb
    initdb=$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)
    [ -x "$initdb" ] || initdb=$(type -P initdb) || return 1
    dirname "$initdb"
}
