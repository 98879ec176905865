#!/bin/sh
# Puts every upload limit back as it was before qguard, without qguard: needs only curl and awk.
#
#   scripts/restore-originals.sh URL FILE [options for curl]
#
#   URL   of qBittorrent's Web UI, with its base path if it has one: http://127.0.0.1:8080
#   FILE  the plain file beside the ledger: qguard.originals.jsonl
#
# Login, none of which shows up in the list of processes:
#   QB_API_KEY            an API key (qBittorrent 5.2 and later), or
#   QB_USER and QB_PASS   a name and a password; without any of them the client must let this address in unasked.
#
# Stop qguard first, or it sets its limits again. Torrents that are gone are passed over; doing it twice does no harm.
set -eu
[ $# -ge 2 ] && [ -r "$2" ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p;}' "$0" >&2; exit 2; }
api=${1%/}/api/v2 file=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
post() { path=$1 && shift && curl -q -sS -f --noproxy '*' -b "$work/jar" -c "$work/jar" "$@" "$api/$path"; }

if [ -n "${QB_USER:-}" ] && [ -z "${QB_API_KEY:-}" ]; then
    answer=$(printf %s "${QB_PASS:-}" |
        post auth/login "$@" --data-urlencode "username=$QB_USER" --data-urlencode password@-) && [ "$answer" != Fails. ] ||
        { echo "no login: check the URL, QB_USER and QB_PASS" >&2; exit 1; }
fi

# Bodies of up to 1000 torrents with the same limit. A line that is not complete never took effect.
awk -F'[":,{}]+' '
    !/}$/ || $2 != "hash" || length($3) != 40 || $4 != "added_on" { next }
    $6 == "limit" { limit[$3] = $7; added[$3] = $5 }
    $6 == "released" && added[$3] == $5 { delete limit[$3] }
    function flush(l) { print n[l], "hashes=" substr(list[l], 2) "&limit=" l; n[l] = 0; list[l] = "" }
    END { for (h in limit) { l = limit[h]; list[l] = list[l] "|" h; if (++n[l] == 1000) flush(l) }
          for (l in n) if (n[l]) flush(l) }
' "$file" >"$work/bodies"

total=0
while read -r count body; do
    printf %s "$body" >"$work/body"
    printf %s "${QB_API_KEY:+header = \"Authorization: Bearer $QB_API_KEY\"}" |
        post torrents/setUploadLimit -K - "$@" --data "@$work/body" ||
        { echo "stopped after $total torrents: check the URL and the login, then run this again" >&2; exit 1; }
    total=$((total + count))
done <"$work/bodies"
echo "restored $total torrents"
