#!/bin/sh
# Installs the real parts that the tests run against: Debian packages, and one chroot for each newer qBittorrent.
# Safe to run again; what is there and works is left alone.
set -eu

packages="qbittorrent-nox opentracker debootstrap debian-archive-keyring docker-compose curl ca-certificates make python3 python3-venv chromium chromium-driver"
in_chroot="qbittorrent-nox curl"  # curl: qBittorrent runs it for each torrent that is added
for_comparison=transmission-daemon  # in trixie, for `make bench-swarm`; no test needs it
cache=${QGUARD_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qguard}

say() { printf '%s\n' "install-test-parts: $*" >&2; }
fail() { say "$@"; exit 1; }

distribution=$(. /etc/os-release 2>/dev/null && printf '%s %s' "${ID:-}" "${VERSION_ID:-}") || distribution=unknown
[ "$distribution" = "debian 12" ] ||
    fail "this is '$distribution', not Debian 12: use a Debian 12 machine or container, or install yourself: $packages"
[ "$(id -u)" = 0 ] || fail "not root: run it as root (it installs $packages, and chroots in $cache)"

mkdir -p "$cache"
exec 9>"$cache/install.lock"
flock 9

# The packages.
missing=
for package in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
policy=/usr/sbin/policy-rc.d
own_policy=
trap '[ -z "$own_policy" ] || rm -f "$policy"' EXIT
trap 'exit 130' INT TERM
if [ -n "$missing" ]; then
    say "installing$missing"
    if [ ! -e "$policy" ]; then  # the tests start their own daemons; the packages' services stay down
        own_policy=yes
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -q && apt-get install -q -y --no-install-recommends $missing; } >"$cache/apt.log" 2>&1 ||
        fail "apt-get could not install$missing: $(grep -m1 '^E:' "$cache/apt.log" || tail -n1 "$cache/apt.log")"
fi

# The mirror that this machine uses; apt itself reads both formats of its source lists.
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "bookworm" || $1 == "stable" || $1 == "oldstable" { print $2; exit }')

answers() { version=$(chroot "$1" qbittorrent-nox --version 2>/dev/null) && [ -n "$version" ]; }

# complete ROOT PACKAGE...: installs what a chroot lacks of these; $lacking says what that was.
complete() {
    in=$1
    shift
    lacking=
    for package; do
        [ "$(chroot "$in" dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            lacking="$lacking $package"
    done
    [ -n "$lacking" ] || return 0
    say "$(basename "$in"): installing$lacking"
    # Nothing in there is to start by itself.
    printf '#!/bin/sh\nexit 101\n' >"$in/usr/sbin/policy-rc.d" && chmod 755 "$in/usr/sbin/policy-rc.d" || return 1
    # The age of the listing is not looked at, as debootstrap does not: mirrors may be weeks old. Signatures are.
    chroot "$in" sh -ec 'export DEBIAN_FRONTEND=noninteractive
        apt-get update -q -o Acquire::Check-Valid-Until=false
        apt-get install -q -y --no-install-recommends "$@"
        rm -rf /var/cache/apt/archives /var/lib/apt/lists' sh $lacking >>"$in.log" 2>&1
}

# chroot_with SUITE: makes or keeps the chroot; on failure says why in $reason.
chroot_with() {
    root=$cache/$1
    log=$cache/$1.log
    if [ -d "$root" ] && answers "$root"; then
        if ! complete "$root" $in_chroot; then
            reason="apt-get could not install$lacking in $root: see $log"
            return 1
        fi
        : >"$root/.qguard-complete"
        say "$1: $version"
        return 0
    fi
    if [ -z "$mirror" ]; then
        reason="no bookworm mirror in the apt sources of this machine: add one to /etc/apt/sources.list"
        return 1
    fi
    if [ -e "$root" ]; then
        say "$1: $root is half made, making it again"
        # An interrupted debootstrap leaves these mounted.
        for mounted in proc sys dev/pts dev/shm dev; do umount "$root/$mounted" 2>/dev/null || :; done
        rm -rf --one-file-system "$root" || { reason="cannot remove $root: see what is mounted there"; return 1; }
    fi
    say "$1: debootstrap, half a minute or more"
    if ! debootstrap --variant=minbase --include="$(echo $in_chroot | tr ' ' ,)" "$1" "$root" "$mirror" >"$log" 2>&1; then
        reason="debootstrap failed: $(grep '^E:' "$log" | tail -n1 || :) (see $log)"
        return 1
    fi
    if ! answers "$root"; then
        reason="qbittorrent-nox does not run in $root: see $log"
        return 1
    fi
    rm -rf "$root/var/cache/apt/archives" "$root/var/lib/apt/lists"
    : >"$root/.qguard-complete"
    say "$1: $version"
}

chroot_with trixie || fail "trixie (qBittorrent 5.1): $reason"
complete "$cache/trixie" $for_comparison ||
    say "trixie: no$lacking, so no native group to compare with in make bench-swarm: see $cache/trixie.log"
if chroot_with sid; then
    rm -f "$cache/sid.unavailable"
else
    printf '%s\n' "$reason" >"$cache/sid.unavailable"
    say "sid (newest qBittorrent) is not available, its tests will be skipped: $reason"
fi
