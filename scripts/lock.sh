#!/usr/bin/env bash
# Pin every dependency with its hashes. Index addresses stay out: they differ from machine to machine.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
options=(--quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header "$@")
"$uv" pip compile pyproject.toml "${options[@]}" -o requirements.lock
"$uv" pip compile --group pyproject.toml:build "${options[@]}" -o requirements-build.lock
"$uv" pip compile pyproject.toml --group dev "${options[@]}" -o requirements-dev.lock
