#!/usr/bin/env bash
# Runs schemathesis over mutual TLS against a running appliance: every route as docs/openapi.json describes it, signed by
# a wallet's device key, then unsigned, then the operators' listener. Fails on any 5xx and on any answer that the
# description does not know. API_CHECK_EXAMPLES sets the examples for each route (50); API_CHECK_SEED repeats a run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

CHAIN=31337
scripts/setup.sh softhsm peers programs
cargo build --locked --workspace --bins
bin=$(target_dir)/debug
python3 -c "import tomllib" || die "Python 3.11 or later is needed"
tools=$PWD/target/api-check
if ! cmp -s tests/api-check/requirements.txt "$tools/installed"; then
    say "installing schemathesis into target/api-check"
    python3 -m venv --clear "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check --requirement tests/api-check/requirements.txt
    cp tests/api-check/requirements.txt "$tools/installed"
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/countersign-api-check.XXXXXX")
chmod 700 "$dir"
anvil='' server=''
finish() {
    local code=$? process
    trap - EXIT
    for process in $server $anvil; do
        kill "$process" 2>/dev/null && wait "$process" 2>/dev/null
    done
    if [ "$code" -eq 0 ]; then
        rm -rf "$dir"
    else
        warn "logs and reports are in $dir"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

peer() { local script=$1; shift; node "target/peers/$script.js" "$@"; }
rpc() { peer rpc "$url" "$@"; }
field() { node -p 'JSON.parse(require("fs").readFileSync(0, "utf8"))[process.argv[1]]' "$1"; }
free_port() { node -e 's = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })'; }
until_true() { # seconds what command...
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || die "$what did not happen in time"
        sleep 0.2
    done
}

say "starting a node, an appliance and a wallet"
eval "$(softhsm/setup.sh "$dir/softhsm" 2>"$dir/softhsm.log")"
url=http://127.0.0.1:$(free_port)
target/peers/anvil --host 127.0.0.1 --port "${url##*:}" --chain-id "$CHAIN" --hardfork prague --silent &
anvil=$!
until_true 10 "the node's first answer" rpc eth_chainId
api=127.0.0.1:$(free_port) operator=127.0.0.1:$(free_port)
"$bin/countersignd" init --dir "$dir/env" --kind development --hsm-module "$HSM_MODULE" --token-label "$TOKEN_LABEL" \
    --pin-file "$PIN_FILE" --rpc "$CHAIN=$url" --listen "$api" --operator-listen "$operator" >/dev/null
# Nobody but us is there to be crowded out.
sed -i 's/^\[api\]$/&\nrequests_per_second = 100000/' "$dir/env/countersignd.toml"
printf '\n[policy]\nlimits_file = "limits.toml"\n' >>"$dir/env/countersignd.toml"
printf '[rates]\n' >"$dir/env/limits.toml"
for class in signing key-operations backup transactions reconcile; do
    printf '%s = { requests = 100000, seconds = 60 }\n' "$class" >>"$dir/env/limits.toml"
done
"$bin/countersignd" serve --config "$dir/env/countersignd.toml" 2>"$dir/countersignd.log" &
server=$!
pki=$dir/env/pki
get() { peer get "https://$operator/$1" "$pki/ca.pem" "$pki/operator.pem" "$pki/operator-key.pem"; }
until_true 20 "the appliance's readiness" get readyz
head -c 24 /dev/urandom | base64 >"$dir/passphrase"
address=$("$bin/countersign" --config "$dir/env/client.toml" --home "$dir/wallet" --passphrase-file "$dir/passphrase" \
    --json wallet create checked | field address)
bank=$(rpc eth_accounts | field 0)
rpc eth_sendTransaction "[{\"from\":\"$bank\",\"to\":\"$address\",\"value\":\"0xde0b6b3a7640000\"}]" >/dev/null
get openapi.json >"$dir/openapi.json"

export API_CHECK_DIR=$dir API_CHECK_CHAIN=$CHAIN API_CHECK_DOCUMENT=$dir/openapi.json
export API_CHECK_WALLET=$dir/wallet/wallets/checked.wallet
export API_CHECK_ORIGIN=https://$api API_CHECK_PKI=$pki
export PYTHONPATH=$PWD/tests/api-check SCHEMATHESIS_HOOKS=hooks PYTHONDONTWRITEBYTECODE=1

check() { # mode tag origin certificate options...
    local mode=$1 tag=$2 origin=$3 certificate=$4
    shift 4
    say
    say "== $mode requests to $origin"
    (
        cd "$dir"
        API_CHECK=$mode "$tools/bin/schemathesis" run openapi.json \
            --url "$origin" --include-tag "$tag" --tls-verify "$pki/ca.pem" \
            --request-cert "$pki/$certificate.pem" --request-cert-key "$pki/$certificate-key.pem" \
            --max-examples "${API_CHECK_EXAMPLES:-50}" ${API_CHECK_SEED:+--seed "$API_CHECK_SEED"} "$@" \
            --continue-on-failure --report junit --report-dir "$dir/$mode"
    ) || failed="$failed $mode"
}
failed=''
# That check takes signatures away, and here each request is signed at the last moment; the second run is that check.
check signed wallet "https://$api" gateway --exclude-checks ignored_auth
check unsigned wallet "https://$api" gateway
check operator operators "https://$operator" operator
[ -z "$failed" ] || die "problems with these requests:$failed"
say
say "no 5xx, and every answer is as described"
