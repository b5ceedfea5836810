# Sourced by the other scripts: finds Python and creates virtual environments.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3.14 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python 3.11 to 3.14 with its venv module was found; name one with PYTHON=/path/to/python" >&2
  return 1
}

# ensure_venv FOLDER PIP_ARGUMENTS…: creates the environment if need be, and installs unless these arguments were
# installed before with the same pyproject.toml.
ensure_venv() {
  local venv=$1 python stamp wanted
  shift
  stamp=$venv/installed
  wanted="$(cksum "$root/pyproject.toml") $*"
  if [ -x "$venv/bin/python" ] && grep -qxF "$wanted" "$stamp" 2>/dev/null; then
    return
  fi
  if [ ! -x "$venv/bin/pip" ]; then
    python=$(find_python)
    "$python" -m venv "$venv"
  fi
  echo "installing into $venv …" >&2
  (cd "$root" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@")
  echo "$wanted" >>"$stamp"
}
