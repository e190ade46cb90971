#!/bin/sh
# Installs forkpy from a release: fetches the single file for this machine, checks its SHA-256, and puts it into a directory.
#
#   curl -LsSf https://github.com/forkpy/forkpy/releases/latest/download/install.sh | sh
#
# FORKPY_VERSION   which release (default: the newest)
# FORKPY_BIN_DIR   where to (default: ~/.local/bin)
# FORKPY_BASE_URL  where releases are (default: GitHub); a file:// address works
set -eu

fail() {
    printf 'forkpy: %s\n' "$1" >&2
    exit 1
}

# All of it is read before any of it runs: a download that was cut short does nothing.
main() {
    case $(uname -s) in
        Linux) ;;
        Darwin) fail "forkpy runs on Linux. On macOS run it in a container: https://github.com/forkpy/forkpy/blob/main/src/guide/clients.md" ;;
        *) fail "forkpy runs on Linux. On Windows run it in WSL 2: https://github.com/forkpy/forkpy/blob/main/src/guide/clients.md" ;;
    esac
    case $(uname -m) in
        x86_64 | amd64) machine=x86_64 ;;
        aarch64 | arm64) machine=aarch64 ;;
        *) fail "there is no forkpy for the machine $(uname -m): build it from its sources" ;;
    esac
    if command -v ldd >/dev/null 2>&1 && ldd --version 2>&1 | grep -qi musl; then
        fail "this system has musl's C library, and forkpy needs glibc 2.28 or newer"
    fi
    base=${FORKPY_BASE_URL:-https://github.com/forkpy/forkpy/releases}
    if [ -n "${FORKPY_VERSION:-}" ]; then
        from=$base/download/v${FORKPY_VERSION#v}
    else
        from=$base/latest/download
    fi
    target=${FORKPY_BIN_DIR:-${HOME:?set HOME or FORKPY_BIN_DIR}/.local/bin}
    name=forkpy-linux-$machine
    mkdir -p "$target" || fail "cannot make $target: name another directory with FORKPY_BIN_DIR"
    # In the directory that it goes to: renaming is then one step, and a full disk leaves what was there before.
    draft=$(mktemp -d "$target/.forkpy-XXXXXX") || fail "cannot write into $target: name another directory with FORKPY_BIN_DIR"
    trap 'rm -rf "$draft"' EXIT
    trap 'exit 1' HUP INT TERM
    fetch "$from/$name" "$draft/forkpy"
    fetch "$from/SHA256SUMS" "$draft/SHA256SUMS"
    expected=$(awk -v name="$name" '$2 == name || $2 == "*" name { print $1 }' "$draft/SHA256SUMS")
    [ -n "$expected" ] || fail "the release names no SHA-256 of $name"
    found=$(sha256sum "$draft/forkpy" | cut -d ' ' -f 1)
    [ "$expected" = "$found" ] || fail "$name has the SHA-256 $found and not $expected: the download is damaged; try again"
    chmod 755 "$draft/forkpy"
    "$draft/forkpy" --version >/dev/null || fail "what was fetched does not run here; nothing was installed"
    mv -f "$draft/forkpy" "$target/forkpy"
    printf 'forkpy is in %s\n' "$target/forkpy"
    case :$PATH: in
        *:"$target":*) ;;
        *) printf '%s is not on PATH: add it, or call forkpy by its whole path\n' "$target" ;;
    esac
    printf 'next: forkpy doctor; forkpy install\n'
}

fetch() {
    if command -v curl >/dev/null 2>&1; then
        curl --fail --silent --show-error --location --retry 3 --output "$2" "$1" || fail "cannot fetch $1"
    elif command -v wget >/dev/null 2>&1; then
        wget -q -O "$2" "$1" || fail "cannot fetch $1"
    else
        fail "neither curl nor wget is here to fetch $1"
    fi
}

main
