#!/usr/bin/env bash
# One whole export with curl: kicks off, polls, downloads every file, and checks counts and hashes.
#
#   sample/export.sh [--sample] [BASE]      BASE: the FHIR base, by default http://127.0.0.1:8080/fhir
#
# With --sample the result is also compared with the sample data that the demo serves. A bearer token is taken from
# $TOKEN. The files stay in a new folder, whose name is printed.
set -euo pipefail

compare=
[ "${1:-}" = --sample ] && compare=yes && shift
base=${1:-http://127.0.0.1:8080/fhir}
sample=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d "${TMPDIR:-/tmp}/export-XXXXXX")

call() { curl -sS --max-time 600 ${TOKEN:+-H "Authorization: Bearer $TOKEN"} "$@"; }
header() { tr -d '\r' <"$dir/headers" | sed -n "s/^$1: //p" | tail -n 1; }
sha256() { if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1; }
fail() { echo "$1" >&2; exit 1; }

status=$(call -D "$dir/headers" -o "$dir/answer" -w '%{http_code}' "$base/\$export" \
    -H 'Accept: application/fhir+json' -H 'Prefer: respond-async')
[ "$status" = 202 ] || fail "kick-off: $status $(cat "$dir/answer")"
poll=$(header content-location)
echo "kicked off: $poll"

while status=$(call -D "$dir/headers" -o "$dir/manifest.json" -w '%{http_code}' "$poll") && [ "$status" = 202 ]; do
    echo "  $(header x-progress)"
    sleep "$(header retry-after)"
done
[ "$status" = 200 ] || fail "poll: $status $(cat "$dir/manifest.json")"
echo "complete: $(sed 's/.*"transactionTime":"\([^"]*\)".*/transactionTime \1/' "$dir/manifest.json")"

# The manifest is one line of JSON; every item of its lists begins with type, url and count, in this order.
grep -o '{"type":"[^"]*","url":"[^"]*","count":[0-9]*' "$dir/manifest.json" |
    sed 's/{"type":"\([^"]*\)","url":"\([^"]*\)","count":\([0-9]*\)/\1 \2 \3/' >"$dir/files" || true

wrong=0
while read -r type url count; do
    file="$dir/$type.${url##*/}.ndjson"
    call -D "$dir/headers" --compressed -o "$file" "$url"
    lines=$(wc -l <"$file" | tr -d ' ')
    hash=$(sha256 <"$file")
    verdict=ok
    [ "$lines" = "$count" ] || verdict="WRONG: $count lines expected"
    # The ETag is the SHA-256 of the content, and of its compressed form with a suffix.
    case $(header etag) in "\"$hash\"" | "\"$hash-gzip\"") ;; *) verdict='WRONG: another hash' ;; esac
    [ "$verdict" = ok ] || wrong=1
    printf '%8s  %-28s %.12s  %s\n' "$lines" "$type" "$hash" "$verdict"
    echo "$type $lines" >>"$dir/counts"
done <"$dir/files"

if [ -n "$compare" ]; then
    for file in "$sample"/*.ndjson; do
        type=$(basename "$file" .ndjson)
        expected=$(wc -l <"$file" | tr -d ' ')
        found=$(awk -v type="$type" '$1 == type { n += $2 } END { print n + 0 }' "$dir/counts")
        [ "$found" = "$expected" ] || { echo "$type: $found of $expected resources of the sample" >&2; wrong=1; }
    done
fi
echo "files: $dir"
exit $wrong
