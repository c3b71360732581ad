#!/usr/bin/env bash
# Makes a SoftHSM token for development and tests. NEVER for production: keys in SoftHSM are files.
#
#   softhsm/setup.sh DIRECTORY [--label LABEL] [--so-pin-file FILE]
#
# Run again, it keeps the token and its PIN. The environment to use goes to standard output and to
# DIRECTORY/env:  eval "$(softhsm/setup.sh ./token)"
set -euo pipefail
umask 077

say() { printf '%s\n' "$*" >&2; }
die() { say "softhsm/setup.sh: $*"; exit 1; }
usage() { die "usage: softhsm/setup.sh DIRECTORY [--label LABEL] [--so-pin-file FILE]"; }
random_pin() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }

directory='' label=countersign so_pin_file=''
while [ $# -gt 0 ]; do
    case $1 in
        --label) [ $# -ge 2 ] || usage; label=$2; shift 2 ;;
        --so-pin-file) [ $# -ge 2 ] || usage; so_pin_file=$2; shift 2 ;;
        -*) usage ;;
        *) [ -z "$directory" ] || usage; directory=$1; shift ;;
    esac
done
[ -n "$directory" ] || usage
[ -n "$label" ] && [ "${#label}" -le 32 ] || die "a token label has 1 to 32 characters"

find_module() {
    local path
    for path in "${SOFTHSM2_MODULE:-}" \
        /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so \
        /usr/lib64/pkcs11/libsofthsm2.so /usr/lib64/softhsm/libsofthsm2.so /usr/lib/pkcs11/libsofthsm2.so \
        /opt/homebrew/lib/softhsm/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
        if [ -n "$path" ] && [ -f "$path" ]; then
            printf '%s' "$path"
            return
        fi
    done
    die "libsofthsm2.so not found: install SoftHSM (Debian: apt-get install softhsm2, Fedora: dnf install softhsm, macOS: brew install softhsm) or set SOFTHSM2_MODULE"
}

module=$(find_module)
command -v softhsm2-util >/dev/null || die "softhsm2-util not found: install SoftHSM"

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$directory/tokens"
directory=$(cd "$directory" && pwd)
pin_file=$directory/pin
export SOFTHSM2_CONF=$directory/softhsm2.conf

while IFS= read -r line; do
    printf '%s\n' "${line//@TOKEN_DIRECTORY@/"$directory/tokens"}"
done <"$here/softhsm2.conf.template" >"$SOFTHSM2_CONF"

token_exists() {
    softhsm2-util --module "$module" --show-slots | sed -n 's/^ *Label: *//p' | sed 's/ *$//' | grep -Fxq -- "$label"
}

if token_exists; then
    [ -s "$pin_file" ] || die "the token '$label' exists but its PIN file $pin_file is gone; remove $directory to start anew (its keys are lost)"
    say "kept the token '$label' in $directory"
else
    [ -s "$pin_file" ] || random_pin >"$pin_file"
    so_pin=$(random_pin)
    # The PINs are in this command's arguments for a moment: acceptable for a development token only.
    softhsm2-util --module "$module" --init-token --free --label "$label" \
        --so-pin "$so_pin" --pin "$(cat "$pin_file")" >&2
    # Without its SO PIN a token cannot be re-initialised, only deleted; that is all we want here.
    [ -z "$so_pin_file" ] || printf '%s' "$so_pin" >"$so_pin_file"
    say "made the token '$label' in $directory"
fi

{
    printf 'export SOFTHSM2_CONF=%q\n' "$SOFTHSM2_CONF"
    printf 'export HSM_MODULE=%q\n' "$module"
    printf 'export TOKEN_LABEL=%q\n' "$label"
    printf 'export PIN_FILE=%q\n' "$pin_file"
} | tee "$directory/env"
