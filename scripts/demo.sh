#!/usr/bin/env bash
# From nothing to a mined transaction on this machine: token, node, server, wallet, signature, receipt.
# Leaves nothing running and no files; DEMO_KEEP=1 keeps the files, and so does a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

CHAIN=31337
RECIPIENT=0x000000000000000000000000000000000000bEEF

step=0
step() { step=$((step + 1)); printf '\n[%d] %s\n' "$step" "$*"; }
result() { printf '    %-10s %s\n' "$1" "$2"; }
look() { printf '    look at    %s\n' "$*"; }

step "Install what is missing and build"
scripts/setup.sh softhsm peers
cargo build --locked --workspace --bins
bin=$(target_dir)/debug
result "built" "$bin/countersignd (appliance), $bin/countersign (wallet)"

dir=$(mktemp -d "${TMPDIR:-/tmp}/countersign-demo.XXXXXX")
chmod 700 "$dir"
anvil='' server=''
finish() {
    local code=$? process
    trap - EXIT
    for process in $server $anvil; do
        kill "$process" 2>/dev/null && wait "$process" 2>/dev/null
    done
    if [ "$code" -eq 130 ]; then
        printf '\nInterrupted.\n'
        rm -rf "$dir"
    elif [ "$code" -ne 0 ]; then
        printf '\nThe demo FAILED in step %d. Last lines of the server:\n' "$step" >&2
        tail -n 20 "$dir/countersignd.log" >&2 2>/dev/null || true
        printf 'Everything is in %s\n' "$dir" >&2
    elif [ -n "${DEMO_KEEP:-}" ]; then
        printf '\nThe files are in %s\n' "$dir"
    else
        rm -rf "$dir"
    fi
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

peer() { local script=$1; shift; node "target/peers/$script.js" "$@"; }
rpc() { peer rpc "$url" "$@"; }
ether() { node -p 'const { formatEther } = require("./target/peers/node_modules/ethers"); formatEther(process.argv[1])' "$1"; }
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

step "Set up a software HSM token (development only: production uses real hardware)"
settings=$(softhsm/setup.sh "$dir/softhsm" 2>"$dir/softhsm.log") || { cat "$dir/softhsm.log" >&2; exit 1; }
eval "$settings"
result "token" "'$TOKEN_LABEL' in $dir/softhsm"
look "softhsm/README.md"

step "Start a local Ethereum node"
url=http://127.0.0.1:$(free_port)
target/peers/anvil --host 127.0.0.1 --port "${url##*:}" --chain-id "$CHAIN" --hardfork prague --silent &
anvil=$!
until_true 10 "the node's first answer" rpc eth_chainId
result "anvil" "$url, chain $CHAIN"

step "Create the environment: keys in the token, database, development certificates"
api=127.0.0.1:$(free_port) operator=127.0.0.1:$(free_port)
"$bin/countersignd" init --dir "$dir/env" --kind development --hsm-module "$HSM_MODULE" --token-label "$TOKEN_LABEL" \
    --pin-file "$PIN_FILE" --rpc "$CHAIN=$url" --listen "$api" --operator-listen "$operator"
look "README.md, section Configuration"

step "Start the appliance"
"$bin/countersignd" serve --config "$dir/env/countersignd.toml" 2>"$dir/countersignd.log" &
server=$!
pki=$dir/env/pki
ready() { peer get "https://$operator/readyz" "$pki/ca.pem" "$pki/operator.pem" "$pki/operator-key.pem"; }
until_true 20 "the appliance's readiness" ready
result "listening" "https://$api (wallets), https://$operator (operators), both with client certificates only"
result "readyz" "$(ready)"

step "Create a wallet: two shares, one here and one in the appliance; the key never exists in one place"
head -c 24 /dev/urandom | base64 >"$dir/passphrase"
wallet() { "$bin/countersign" --config "$dir/env/client.toml" --home "$dir/wallet" --passphrase-file "$dir/passphrase" "$@"; }
address=$(wallet --json wallet create demo | field address)
result "address" "$address"
look "mpc/src/keygen.rs, src/service/create_profile.rs"

step "Fund it from the node's own account"
bank=$(rpc eth_accounts | field 0)
rpc eth_sendTransaction "[{\"from\":\"$bank\",\"to\":\"$address\",\"value\":\"0xde0b6b3a7640000\"}]" >/dev/null
result "balance" "$(ether "$(rpc eth_getBalance "[\"$address\",\"latest\"]")") ETH"

step "Sign and broadcast: the appliance decides and records, both sides sign, the node mines"
sent=$(wallet --json send demo --to "$RECIPIENT" --value 0.01 --chain "$CHAIN" --yes --wait)
hash=$(field txHash <<<"$sent")
result "hash" "$hash"
look "src/service/sign.rs, SECURITY.md"

step "Check it with programs that are not ours"
receipt=$(rpc eth_getTransactionReceipt "[\"$hash\"]")
[ "$(field status <<<"$receipt")" = 0x1 ] || die "the node did not execute the transaction: $receipt"
result "mined" "block $(($(field blockNumber <<<"$receipt"))), status 1 (anvil)"
raw=$(rpc eth_getRawTransactionByHash "[\"$hash\"]")
sender=$(peer recover "$raw")
[ "${sender,,}" = "${address,,}" ] || die "ethers.js recovers $sender, the wallet is $address"
result "sender" "$sender (recovered by ethers.js)"
result "accepted" "$(CHAIN_ID=$CHAIN peer second-node "$raw") (hardhat)"
for account in "$address" "$RECIPIENT"; do
    result "balance" "$(ether "$(rpc eth_getBalance "[\"$account\",\"latest\"]")") ETH  $account"
done

step "Stop everything"
kill "$server"
wait "$server" || die "the appliance did not stop cleanly"
server=''
result "stopped" "the appliance drained its work and ended with status 0"
printf '\nThe demo worked: a transaction signed by two shares was mined.\n'
