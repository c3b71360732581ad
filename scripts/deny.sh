#!/usr/bin/env bash
# Licences, sources, bans and advisories of every crate in Cargo.lock.
#
# Advisories come from an archive of the RustSec database when there is one (ADVISORY_DB_ARCHIVE, or the copy that lies
# beside the checkout), else from the live database. Without either, that one part is left out, loudly.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

archive=${ADVISORY_DB_ARCHIVE:-../shared/advisory-db/crates.tar.xz}
databases=target/advisory-db                       # deny.toml says the same: db-path
database=$databases/advisory-db-3157b0e258782691   # cargo-deny derives this name from db-urls

advisories_dated() {
    say "advisory data: $1, newest entry $(grep -rhoE '^date = "[0-9-]+"' "$2" | cut -d'"' -f2 | sort | tail -1)"
}

if [ -n "${ADVISORY_DB_ARCHIVE:-}" ] && [ ! -f "$archive" ]; then
    die "ADVISORY_DB_ARCHIVE names no file: $archive"
fi
if [ -f "$archive" ]; then
    rm -rf "$database"
    mkdir -p "$database"
    tar -xJf "$archive" -C "$database"
    git -C "$database" init --quiet
    git -C "$database" add --all
    git -C "$database" -c user.name=advisories -c user.email=advisories@localhost -c commit.gpgsign=false \
        commit --quiet --message "advisory data"
    advisories_dated "archive" "$database"
    cargo deny --locked --offline check
elif cargo deny --locked fetch db 2>/dev/null; then
    advisories_dated "live database" "$databases"
    cargo deny --locked check
else
    warn "NO ADVISORY DATA: no archive and no network. Advisories were NOT checked; everything else was."
    cargo deny --locked check bans licenses sources
fi
