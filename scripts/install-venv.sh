#!/usr/bin/env bash
# Debian's python3 comes without what `python3 -m venv` needs.
set -euo pipefail
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "python3 cannot make a virtual environment here; install its venv package (Debian: python3-venv)" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null
