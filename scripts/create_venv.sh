#!/usr/bin/env bash
# Create the virtual environment of the argument with a pinned uv in it. PYTHON names another interpreter than python3.
set -euo pipefail

venv=$1
python=${PYTHON:-python3}
fail() { echo "$*" >&2 && exit 1; }

version=$("$python" -c 'import sys; print("%d.%d %s" % (sys.version_info[:2] + (sys.version_info >= (3, 10),)))' 2>/dev/null) ||
  fail "lakefactor needs Python 3.10 or newer and \`$python\` does not run: run make with PYTHON=/path/to/python3."
[ "${version#* }" = True ] ||
  fail "lakefactor needs Python 3.10 or newer and \`$python\` is ${version% *}: run make with PYTHON=/path/to/a/newer/python3."
"$python" -c 'import ensurepip, venv' 2>/dev/null || "$(dirname "$0")/apt_install.sh" "python${version% *}-venv" ||
  fail "Python's venv module is missing: install it with \`sudo apt-get install python3-venv\` and run make again."

echo "Creating $venv with Python ${version% *} (about 10 seconds)"
"$python" -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
