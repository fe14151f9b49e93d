#!/usr/bin/env bash
# Print the lower bounds of keys of pyproject.toml, such as `dependencies` or an extra, as constraints for pip.
# jax itself accepts newer releases of jaxlib, so jaxlib gets the version of jax.
set -euo pipefail
for key in "$@"; do
  line=$(grep "^$key = " "$(dirname "$0")/../pyproject.toml")
  grep -oE '[A-Za-z_-]+>=[0-9.]+' <<<"$line" | sed -E 's/>=/==/; s/^jax==(.*)/&\njaxlib==\1/'
done
