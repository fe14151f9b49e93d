#!/usr/bin/env bash
# Build the distributions of HEAD and check them: release_check.sh PYTHON [PYTHON...], see `make release-check`.
# The first Python builds, and has the extra `release`; each further one gets a wheel from the sdist. Each wheel gets
# its manylinux tag and is installed without a compiler. If all checks hold, the sdist and the wheels are in dist/.
set -euo pipefail
root=$(realpath "$(dirname "$0")/..")
python=$root/$1
[ -x "$python" ] || python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"  # no module of the clone shadows an installed one
unset PYTHONPATH "${!JAX@}"

fail() { echo "FAIL: $*" >&2; exit 1; }

# install PYTHON native|scan PACKAGE...: install without a compiler, and check the installation.
install() {
  rm -rf environment
  "$1" -m venv environment
  env -u CC -u CXX PATH= environment/bin/python -m pip install --quiet "${@:3}"
  env -u CC -u CXX PATH= environment/bin/python -P source/tools/installed_check.py source "$2"
}

# repair WHEEL: replace a wheel by one with its manylinux tag.
repair() {
  PATH=$(dirname "$python"):$PATH "$python" -m auditwheel repair --wheel-dir dist "$1" >repair.log 2>&1 || fail "$(cat repair.log)"
  rm "$1"
}

changes=$(git -C "$root" status --porcelain)
[ -z "$changes" ] || fail "commit these changes first:"$'\n'"$changes"
git clone --quiet --depth 1 "file://$root" source
"$python" -m build --outdir dist source >build.log 2>&1 || fail "$(cat build.log)"
"$python" -m twine check --strict dist/*

echo "The sdist has the files that the README links to"
tar -tzf dist/*.tar.gz | cut -d/ -f2- >sdist.txt
for target in $(grep -oP '\]\((?!https?:)\K[^)#]+' source/README.md); do
  grep -qx "$target/\?" sdist.txt || fail "$target is missing"
done

echo "The wheel has both packages, the library, no C++ source, and a description without relative links"
"$python" -m zipfile -e dist/*.whl wheel
folders=$(ls wheel | sed 's/-.*/ metadata/' | paste -sd' ')
[ "$folders" = "jaxlstm jaxlstm metadata jaxlstm_converters" ] || fail "folders: $folders"
ls wheel/jaxlstm/kernels/cpu/_native* >/dev/null || fail "no library"
sources=$(find wheel -name '*.cc' -o -name '*.h')
[ -z "$sources" ] || fail "sources: $sources"
! grep -P '\]\((?!https?:)' wheel/*.dist-info/METADATA || fail "relative links"

repair dist/*-linux_*.whl
echo "The oldest supported JAX and NumPy"
"$root/tools/lower_bounds.sh" dependencies >oldest.txt
install "$python" native dist/*.whl --constraint oldest.txt
echo "The newest JAX"
install "$python" native dist/*.whl
for other in "${@:2}"; do
  tag=$("$other" -c "import sys; print('cp%d%d' % sys.version_info[:2])")
  ! ls dist/*-"$tag"-*.whl >/dev/null 2>&1 || continue
  "$other" -m venv builder
  builder/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist dist/*.tar.gz
  repair dist/*-linux_*.whl
  echo "The newest JAX with $other"
  install "$other" native dist/*-"$tag"-*.whl
done
echo "The sdist without a compiler"
install "$python" scan dist/*.tar.gz
rm -rf "$root/dist"
cp -r dist "$root/dist"
echo "The sdist and the wheels are in $root/dist; install one with pip install dist/NAME.whl:"
ls "$root/dist"
