#!/usr/bin/env bash
# Runs a command beside a throw-away PostgreSQL server of its own: with-postgres.sh COMMAND...
#
# The server comes from the system package (scripts/setup.sh postgres), runs as an ordinary user, keeps everything in a
# temporary folder, speaks TLS only over TCP, and syncs every commit, as a real one does. Both are gone when COMMAND has
# ended, whatever the end; the exit code is COMMAND's. COMMAND finds in its environment:
#
#   COUNTERSIGN_TEST_POSTGRES          URL of a superuser over TCP, with password
#   COUNTERSIGN_TEST_POSTGRES_CA       CA of the server's certificate, PEM
#   COUNTERSIGN_TEST_POSTGRES_SOCKET   folder of the server's Unix socket; also asks for the password
#   COUNTERSIGN_TEST_POSTGRES_BIN      folder of psql, initdb, pg_ctl, ...
set -euo pipefail
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || die "usage: with-postgres.sh COMMAND..."
bin=$(postgres_bin) || die "PostgreSQL is missing: run scripts/setup.sh postgres"

# The path of a socket is short, and the server's user must get there: so not below TMPDIR.
dir=$(mktemp -d /tmp/countersign-pg.XXXXXX)
child=''
finish() {
    local code=$?
    trap - EXIT
    trap '' INT TERM HUP
    if [ -f "$dir/data/postmaster.pid" ]; then
        as_server "$bin/pg_ctl" stop --pgdata="$dir/data" --mode=immediate --timeout=10 --silent >&2 || true
    fi
    rm -rf "$dir"
    exit "$code"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# PostgreSQL refuses to run as root.
server_user=''
if [ "$(id -u)" -eq 0 ]; then
    server_user=postgres
    id "$server_user" >/dev/null 2>&1 || server_user=nobody
fi
as_server() ( # command...
    cd "$dir"
    if [ -n "$server_user" ]; then exec runuser -u "$server_user" -- "$@"; else exec "$@"; fi
)

# A certificate authority and a certificate for this machine.
certificates() {
    local key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    # shellcheck disable=SC2086
    openssl req -x509 $key -keyout ca.key -out ca.pem -days 2 -subj "/CN=countersign test CA"
    # shellcheck disable=SC2086
    openssl req $key -keyout server.key -out server.csr -subj "/CN=localhost"
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >server.ext
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile server.ext -out server.pem
}

password=$(openssl rand -hex 16)
cd "$dir"
(umask 077 && printf '%s' "$password" >password && certificates >log 2>&1) || { cat log >&2; die "openssl failed"; }
cd "$OLDPWD"
mkdir "$dir/socket"
if [ -n "$server_user" ]; then chown -R "$server_user" "$dir"; fi

# A collation that is not that of bytes, where there is one: SQL must not rely on an order of text.
locale=(--locale=C)
if "$bin/initdb" --help | grep -q -- --icu-locale; then locale+=(--locale-provider=icu --icu-locale=en-US); fi
as_server "$bin/initdb" --pgdata="$dir/data" --username=postgres --pwfile="$dir/password" --auth=scram-sha-256 \
    --encoding=UTF8 "${locale[@]}" --no-sync >"$dir/log" 2>&1 || { cat "$dir/log" >&2; die "initdb failed"; }
# The write-ahead log is kept, for tests that search it.
as_server tee -a "$dir/data/postgresql.conf" >/dev/null <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir/socket'
max_connections = 300
fsync = on
synchronous_commit = on
full_page_writes = on
wal_keep_size = 1GB
ssl = on
ssl_cert_file = '$dir/server.pem'
ssl_key_file = '$dir/server.key'
ssl_min_protocol_version = 'TLSv1.3'
password_encryption = 'scram-sha-256'
CONF
as_server tee "$dir/data/pg_hba.conf" >/dev/null <<CONF
local   all all               scram-sha-256
hostssl all all 127.0.0.1/32  scram-sha-256
CONF

# Below the ports that the system gives to who asks for any; another try when one is taken.
for attempt in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 12000))
    if as_server "$bin/pg_ctl" start --pgdata="$dir/data" --log="$dir/log" --silent --options="-p $port" 2>>"$dir/log"; then
        break
    fi
    [ "$attempt" -lt 5 ] || { cat "$dir/log" >&2; die "the PostgreSQL server did not start"; }
done

export COUNTERSIGN_TEST_POSTGRES=postgres://postgres:$password@127.0.0.1:$port/postgres
export COUNTERSIGN_TEST_POSTGRES_CA=$dir/ca.pem
export COUNTERSIGN_TEST_POSTGRES_SOCKET=$dir/socket
export COUNTERSIGN_TEST_POSTGRES_BIN=$bin

# In the background, so that a signal is seen while it runs, but with our input and the usual signals. Ctrl-C reaches it
# from the terminal; any other signal reaches only this script, which passes it on and waits for the end.
pass_on() { # signal code
    ended_by=$2
    if [ "$1" = INT ] && from_terminal; then return; fi
    kill -s "$1" "$child" 2>/dev/null || true
}
from_terminal() {
    local group foreground
    read -r _ _ _ _ group _ _ foreground _ </proc/$$/stat
    [ "$group" = "$foreground" ]
}
ended_by=''
trap 'pass_on HUP 129' HUP
trap 'pass_on INT 130' INT
trap 'pass_on TERM 143' TERM
env --default-signal=INT,QUIT "$@" <&0 &
child=$!
code=0
while wait "$child" || code=$?; [ -d "/proc/$child" ]; do code=0; done
exit "${ended_by:-$code}"
