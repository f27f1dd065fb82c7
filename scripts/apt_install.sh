#!/usr/bin/env bash
# Install the first of the given Debian packages that this release has.
# Fails without a word where there is no apt-get or we are not root: the caller then says what to do.
set -euo pipefail

command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || exit 1
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT

echo "Installing $1 with apt-get (about 1 minute)" >&2
apt-get update >"$log" 2>&1 || true # a stale list may still do; the installation says whether it does
for package in "$@"; do
  if apt-get install --yes --no-install-recommends "$package" >>"$log" 2>&1; then exit 0; fi
done
tail -n 20 "$log" >&2
exit 1
