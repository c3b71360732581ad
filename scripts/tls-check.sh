#!/usr/bin/env bash
# What openssl, curl and sslyze find at both listeners of a fresh appliance: a table, and status 1 if anything is wrong.
# sslyze is installed with pip into target/sslyze. SSLYZE=no leaves it out, as where there is no network.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

SSLYZE_VERSION=6.3.1

scripts/setup.sh softhsm programs
sslyze=$PWD/target/sslyze/bin/python
if [ "${SSLYZE:-yes}" != no ] && ! "$sslyze" -c "import sslyze; assert sslyze.__version__.__version__ == '$SSLYZE_VERSION'" 2>/dev/null; then
    say "installing sslyze $SSLYZE_VERSION into target/sslyze"
    python3 -m venv target/sslyze || die "python3 has no venv: install the package python3-venv"
    "$sslyze" -m pip install --quiet --disable-pip-version-check "sslyze==$SSLYZE_VERSION"
fi
cargo build --locked --quiet --bin countersignd
countersignd=$(target_dir)/debug/countersignd

dir=$(mktemp -d "${TMPDIR:-/tmp}/countersign-tls.XXXXXX")
chmod 700 "$dir"
server=''
finish() {
    local code=$?
    trap - EXIT
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
    [ "$code" -eq 0 ] || tail -n 5 "$dir/log" >&2 2>/dev/null || true
    rm -rf "$dir"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
api=127.0.0.1:$(free_port) operator=127.0.0.1:$(free_port)
eval "$(softhsm/setup.sh "$dir/softhsm" 2>/dev/null)"
"$countersignd" init --dir "$dir/env" --kind development --hsm-module "$HSM_MODULE" --token-label "$TOKEN_LABEL" \
    --pin-file "$PIN_FILE" --listen "$api" --operator-listen "$operator" >/dev/null
"$countersignd" serve --config "$dir/env/countersignd.toml" 2>"$dir/log" &
server=$!
pki=$dir/env/pki
identity=/api/v1/mpc/identity
gateway=("$pki/gateway.pem" "$pki/gateway-key.pem") officer=("$pki/operator.pem" "$pki/operator-key.pem")

# issue NAME SAN CA [option of openssl x509]...: a client certificate $dir/NAME.pem with its key.
issue() {
    local name=$1 san=$2 ca=$3
    shift 3
    printf 'subjectAltName = %s\nextendedKeyUsage = clientAuth\n' "$san" >"$dir/$name.ext"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=gateway \
        -keyout "$dir/$name-key.pem" -out "$dir/$name.csr" 2>/dev/null
    openssl x509 -req -in "$dir/$name.csr" -CA "$ca.pem" -CAkey "$ca-key.pem" -CAcreateserial -out "$dir/$name.pem" \
        -extfile "$dir/$name.ext" "$@" 2>/dev/null
}

failed=0
row() { # what expected found
    if [[ $3 == *"$2"* ]]; then
        # All that was found, if it is one short line.
        if [[ ${#3} -gt 60 || $3 == *$'\n'* ]]; then printf '  ok    %-58s %s\n' "$1" "$2"; else printf '  ok    %-58s %s\n' "$1" "$3"; fi
    else
        printf '  FAIL  %-58s expected %s, found %s\n' "$1" "$2" "${3:-nothing}"
        failed=$((failed + 1))
    fi
}

# status ADDRESS PATH CERTIFICATE KEY [option of curl]...: the HTTP status and version, or how curl fails.
status() {
    local address=$1 path=$2 own=(--cert "$3" --key "$4")
    shift 4
    [ -n "${own[1]}" ] || own=()
    curl --silent --show-error --max-time 10 --noproxy '*' --cacert "$pki/ca.pem" --output /dev/null \
        --write-out '%{http_code} HTTP/%{http_version}' "${own[@]}" "$@" "https://$address$path" 2>&1 || true
}

# session ADDRESS CERTIFICATE KEY [option of s_client]...: what openssl sees of one request.
session() {
    local address=$1 own=(-cert "$2" -key "$3")
    shift 3
    [ -n "${own[1]}" ] || own=()
    { printf 'GET %s HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n' "$identity"; sleep 0.3; } \
        | timeout 10 openssl s_client -connect "$address" -CAfile "$pki/ca.pem" -msg -ign_eof "${own[@]}" "$@" 2>&1 || true
}
alert() { grep -oE 'alert [a-z ]+|no protocols available|unsupported protocol' <<<"$1" | head -1 | sed 's/ *$//'; }
ends_with_alert() { # what expected address certificate key [option]...
    local what=$1 expected=$2
    shift 2
    row "$what" "$expected" "$(alert "$(session "$@")")"
}

for _ in $(seq 100); do
    [[ $(status "$operator" /readyz "${officer[@]}") != 200* ]] || break
    sleep 0.1
done

say "openssl $(openssl version | cut -d' ' -f2) and $(curl --version | head -1 | cut -d' ' -f1,2)"
row "wallets' listener, the gateway, HTTP/2" "200 HTTP/2" "$(status "$api" $identity "${gateway[@]}" --http2)"
row "wallets' listener, the gateway, HTTP/1.1" "200 HTTP/1.1" "$(status "$api" $identity "${gateway[@]}" --http1.1)"
row "wallets' listener, an operator" "403" "$(status "$api" $identity "${officer[@]}")"
row "the same, who claims to be the gateway in headers" "403" "$(status "$api" $identity "${officer[@]}" \
    -H 'X-Client-Cert: spiffe://countersign.test/gateway' -H 'X-SSL-Client-Verify: SUCCESS')"
row "operators' listener, an operator" "200" "$(status "$operator" /healthz "${officer[@]}")"
row "operators' listener, the gateway" "403" "$(status "$operator" /healthz "${gateway[@]}")"
row "a head of 20 kB" "431" "$(status "$api" $identity "${gateway[@]}" --http1.1 -H "X-Filler: $(head -c 20000 /dev/zero | tr '\0' a)")"

seen=$(session "$api" "${gateway[@]}" -sess_out "$dir/session")
row "protocol" "TLSv1.3" "$(grep -o 'New, TLSv1.3' <<<"$seen")"
row "our certificate chains to the CA" "Verify return code: 0 (ok)" "$seen"
row "names of client CAs that strangers are told" "No client certificate CA names sent" "$seen"
row "session tickets" "none" "$(grep -q NewSessionTicket <<<"$seen" && echo sent || echo none)"
row "sessions to resume" "none" "$([ -s "$dir/session" ] && grep -o 'Resumption PSK.*' <(openssl sess_id -in "$dir/session" -noout -text) \
    | grep -v 'None' || echo none)"
for version in 1 1_1 1_2; do
    ends_with_alert "TLS ${version/_/.}" "alert" "$api" "${gateway[@]}" "-tls$version" -cipher DEFAULT@SECLEVEL=0
done
plain=$(curl --silent --show-error --http0.9 --max-time 10 --noproxy '*' "http://$api$identity" 2>&1 | tr -d '\0' || true)
row "no TLS at all" "nothing served" "$([[ $plain == *error* || $plain == *HTTP* ]] && printf '%s' "$plain" || echo 'nothing served')"

name=URI:spiffe://countersign.test/gateway
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=countersign development CA' -days 1 \
    -keyout "$dir/other-ca-key.pem" -out "$dir/other-ca.pem" 2>/dev/null
issue foreign $name "$dir/other-ca" -days 1
issue expired $name "$pki/ca" -days -1
issue stranger URI:spiffe://countersign.test/nobody "$pki/ca" -days 1
issue revoked $name "$pki/ca" -days 1
pair() { printf '%s\n' "$dir/$1.pem" "$dir/$1-key.pem"; }
for address in "$api" "$operator"; do
    on=$([ "$address" = "$api" ] && echo wallets || echo operators)
    ends_with_alert "$on: no certificate" "alert certificate required" "$address" '' ''
    mapfile -t own < <(pair foreign)
    ends_with_alert "$on: a certificate of another CA with the same names" "alert decrypt error" "$address" "${own[@]}"
    mapfile -t own < <(pair expired)
    ends_with_alert "$on: an expired certificate" "alert certificate expired" "$address" "${own[@]}"
    ends_with_alert "$on: a server's certificate" "alert" "$address" "$pki/server.pem" "$pki/server-key.pem"
    mapfile -t own < <(pair stranger)
    row "$on: a certificate with a name that nobody listed" "403" "$(status "$address" $identity "${own[@]}")"
done

mapfile -t own < <(pair revoked)
row "a second certificate of the gateway" "200" "$(status "$api" $identity "${own[@]}")"
"$countersignd" pki revoke --dir "$dir/env" "${own[0]}" >/dev/null
kill -HUP "$server"
sleep 1
ends_with_alert "the same, a second after it was revoked" "alert certificate revoked" "$api" "${own[@]}"
row "the first certificate of the gateway" "200" "$(status "$api" $identity "${gateway[@]}")"

if [ "${SSLYZE:-yes}" != no ]; then
    for address in "$api" "$operator"; do
        own=("${gateway[@]}")
        [ "$address" = "$api" ] || own=("${officer[@]}")
        say
        say "sslyze $SSLYZE_VERSION, $([ "$address" = "$api" ] && echo "wallets'" || echo "operators'") listener"
        # Its exit status is about a profile of Mozilla's that wants resumption; what counts is below.
        "$sslyze" -m sslyze --cert "${own[0]}" --key "${own[1]}" --sslv2 --sslv3 --tlsv1 --tlsv1_1 --tlsv1_2 --tlsv1_3 \
            --early_data --resum --compression --reneg --heartbleed --openssl_ccs --robot --elliptic_curves \
            --json_out="$dir/sslyze.json" --quiet "$address" >/dev/null 2>&1 || true
        "$sslyze" - "$dir/sslyze.json" <<'PYTHON' || failed=$((failed + 1))
import json, sys

[server] = json.load(open(sys.argv[1]))["server_scan_results"]
result = server["scan_result"] or {}
failed = 0


def found(command):
    return (result.get(command) or {}).get("result") or {}


def row(what, value, good):
    global failed
    failed += not good
    print(f"  {'ok  ' if good else 'FAIL'}  {what:<58} {value}")


for version in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2"]:
    suites = found(version + "_cipher_suites").get("accepted_cipher_suites")
    row(version.upper().replace("_", " ", 1).replace("_", "."), "refused" if suites == [] else suites, suites == [])
suites = found("tls_1_3_cipher_suites").get("accepted_cipher_suites") or []
names = [suite["cipher_suite"]["name"] for suite in suites]
row("TLS 1.3", ", ".join(names), len(names) == 3)
early = found("tls_1_3_early_data").get("supports_early_data")
row("early data", early, early is False)
for kind in ["session_id", "tls_ticket"]:
    # It tries TLS 1.2; for TLS 1.3 see the tickets above.
    resumed = found("session_resumption").get(kind + "_resumption_result")
    row(f"resumption by {kind.replace('_', ' ')}", resumed, resumed in ("NOT_SUPPORTED", "SERVER_IS_TLS_1_3_ONLY"))
for what, command, field in [
    ("compression", "tls_compression", "supports_compression"),
    ("renegotiation started by the client", "session_renegotiation", "is_vulnerable_to_client_renegotiation_dos"),
    ("Heartbleed", "heartbleed", "is_vulnerable_to_heartbleed"),
    ("CCS injection", "openssl_ccs_injection", "is_vulnerable_to_ccs_injection"),
]:
    value = found(command).get(field)
    row(what, value, value is False)
robot = found("robot").get("robot_result")
row("ROBOT", robot, robot in ("NOT_VULNERABLE_RSA_NOT_SUPPORTED", "NOT_VULNERABLE_NO_ORACLE"))
curves = [curve["name"] for curve in found("elliptic_curves").get("supported_curves") or []]
row("elliptic curves (besides X25519MLKEM768)", ", ".join(curves), bool(curves))
sys.exit(failed > 0)
PYTHON
    done
fi

# Last, because nobody gets in any more: openssl makes a revocation list that was due yesterday.
: >"$dir/index.txt"
echo 01 >"$dir/crlnumber"
cat >"$dir/ca.cnf" <<CONFIG
[ca]
default_ca = us
[us]
database = $dir/index.txt
crlnumber = $dir/crlnumber
default_md = sha256
CONFIG
openssl ca -config "$dir/ca.cnf" -gencrl -cert "$pki/ca.pem" -keyfile "$pki/ca-key.pem" -crl_lastupdate 20200101000000Z \
    -crl_nextupdate 20200201000000Z -out "$pki/ca.crl.pem" 2>/dev/null
kill -HUP "$server"
sleep 1
say
say "a revocation list that is overdue"
ends_with_alert "wallets: the gateway" "alert" "$api" "${gateway[@]}"
ends_with_alert "operators: an operator" "alert" "$operator" "${officer[@]}"

say
[ "$failed" -eq 0 ] || die "$failed of these are not as they should be"
say "All as it should be."
