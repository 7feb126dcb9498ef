#!/usr/bin/env bash
# Install the Debian packages Machinen needs. Does nothing, and needs no network, if all are there.
#
# QEMU must be 8.2 or newer. Where the release has an older one (Debian 12), its backports suite is added, at the
# address the release itself is configured with.
set -euo pipefail

readonly MIN_QEMU=8.2
case "$(uname -m)" in
    x86_64) qemu_binary=qemu-system-x86_64 qemu_package=qemu-system-x86 ;;
    aarch64) qemu_binary=qemu-system-aarch64 qemu_package=qemu-system-arm ;;
    *) echo "machinen: no guest for this processor ($(uname -m)): only x86_64 and aarch64" >&2; exit 1 ;;
esac
packages=(
    cpio debian-archive-keyring e2fsprogs fakeroot gcc git htop kmod less libc6-dev libvterm0 make mc mmdebstrap
    passt procps qemu-utils squashfs-tools tmux uidmap vim vttest xz-utils zstd
)

# With `--tests` also what only tests need: a browser, 64 MB.
[ "${1:-}" != --tests ] || packages+=(chromium-headless-shell)

say() { printf 'machinen: %s\n' "$*"; }
die() { say "$@" >&2; exit 1; }

version_at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

qemu_is_new_enough() {
    local version
    version=$("$qemu_binary" --version 2>/dev/null | sed -n 's/.*version \([0-9.]*\).*/\1/p')
    [ -n "$version" ] && version_at_least "$version" "$MIN_QEMU"
}

missing_packages() {
    local package
    for package in "${packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s\n' "$package"
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "not root, and there is no sudo. As root, run: $0"
    fi
}

# Runs apt-get quietly; if it fails, shows the end of what it said, without mirror addresses.
apt() {
    local log
    log=$(mktemp)
    if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1; then
        tail -n 20 "$log" | sed -E 's#[a-z+]+://[^ ]+#<mirror>#g' >&2
        rm -f "$log"
        die "apt-get $1 failed: is the network up?"
    fi
    rm -f "$log"
}

candidate_of() { apt-cache policy "$1" | sed -n 's/^ *Candidate: \([0-9]*:\)\{0,1\}//p'; }

add_backports() {
    local codename uri sources=/etc/apt/sources.list.d/machinen-backports.sources
    codename=$(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-}") || true
    [ -n "${codename:-}" ] || die "$qemu_package here is older than $MIN_QEMU: install a newer QEMU yourself"
    uri=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        sed -n "s/^$codename //p" | head -n 1)
    [ -n "$uri" ] || die "found no configured source for $codename to derive its backports from"
    printf 'Types: deb\nURIs: %s\nSuites: %s-backports\nComponents: main\nSigned-By: %s\n' \
        "$uri" "$codename" /usr/share/keyrings/debian-archive-keyring.gpg |
        as_root tee "$sources" >/dev/null
    apt update
    version_at_least "$(apt-cache madison "$qemu_package" | awk '{print $3}' | sed 's/^[0-9]*://' | sort -V | tail -n 1)" \
        "$MIN_QEMU" || die "not even $codename-backports has QEMU $MIN_QEMU: install a newer QEMU yourself"
    backports=(-t "$codename-backports")
}

"${PYTHON:-python3}" -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)
mapfile -t missing < <(missing_packages)
need_qemu=no
qemu_is_new_enough || need_qemu=yes
[[ " ${missing[*]} " != *" qemu-utils "* ]] || need_qemu=yes  # both from one release
if [ "${#missing[@]}" = 0 ] && [ "$need_qemu" = no ]; then
    exit 0
fi
command -v apt-get >/dev/null ||
    die "no apt-get here. Install QEMU $MIN_QEMU or newer and what these Debian packages hold: ${packages[*]}"

say "refreshing package lists"
apt update
backports=()
if [ "$need_qemu" = yes ]; then
    version_at_least "$(candidate_of "$qemu_package")" "$MIN_QEMU" || add_backports
    say "installing $qemu_package ${backports[*]}"
    apt install -y --no-install-recommends "${backports[@]}" "$qemu_package" qemu-utils
    mapfile -t missing < <(missing_packages)
fi
if [ "${#missing[@]}" != 0 ]; then
    say "installing ${missing[*]}"
    apt install -y --no-install-recommends "${missing[@]}"
fi
qemu_is_new_enough || die "$qemu_binary is still older than $MIN_QEMU: is another one first in PATH?"
