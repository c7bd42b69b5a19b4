#!/usr/bin/env bash
# Installs what tests/real needs and this machine lacks: Python tools in .tools/venv, beside those of deployment, and in
# .tools/checkov-venv, cargo-deny in .tools/cargo, Debian packages, a Docker engine. `install.sh peers` installs only the
# commands that tests/bench runs, and `install.sh cargo-deny` only that. May run any number of times; when everything is there,
# it changes nothing. Runs as root or with sudo.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
  printf 'tests/real/install.sh: %s\n' "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail "'$*' needs root, and there is no sudo: run this script as root"
  fi
}

# The packages start services on installation, a registry on port 5000 among them, where no policy forbids it.
install_packages() {
  command -v apt-get >/dev/null ||
    fail "this machine has no apt-get. Install by hand, then run again: $*"
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    # shellcheck disable=SC2064 # the path is meant to be filled in now
    trap "as_root rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 0755 "$policy"
  fi
  as_root apt-get update --quiet ||
    fail "apt-get could not read its package lists; look at the network and at /etc/apt"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends "$@" ||
    fail "apt-get could not install: $*"
}

# Adds to `missing` the packages of those commands, each given as command:package, that there are not.
missing=()
look_for() {
  local need
  for need in "$@"; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
  done
}

if [ "${1-}" = peers ]; then
  look_for docker-registry:docker-registry skopeo:skopeo curl:curl openssl:openssl /usr/bin/time:time
  [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
  exit 0
fi

# Without optimisation: it is built in a third of the time, and checks within seconds all the same.
install_cargo_deny() {
  local version=0.20.2
  [ "$(.tools/cargo/bin/cargo-deny --version 2>/dev/null)" != "cargo-deny $version" ] || return 0
  cargo install cargo-deny --version "$version" --locked --debug --quiet --root .tools/cargo ||
    fail "cargo could not install cargo-deny $version"
}

if [ "${1-}" = cargo-deny ]; then
  install_cargo_deny
  exit 0
fi

python=${PYTHON:-python3}
"$python" -c 'import ensurepip, venv' 2>/dev/null || install_packages python3 python3-venv
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "tests/real needs Python 3.11 or newer, and $python is $("$python" --version); name another: PYTHON=python3.13"

# Installs what a requirements file lists into a virtual environment under .tools, and leaves a copy of the list there.
install_python_tools() {
  local environment=.tools/$1 requirements=tests/real/$2
  ! cmp -s "$requirements" "$environment/tests.txt" || return 0
  [ -x "$environment/bin/pip" ] || "$python" -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" ||
    fail "pip could not install $requirements with $("$environment/bin/python" --version)"
  cp "$requirements" "$environment/tests.txt"
}

deploy/install.sh
install_python_tools venv requirements.txt
install_python_tools checkov-venv checkov.txt
install_cargo_deny
# cargo-deny reads the licences of all crates, also of those for other systems, which no build here has fetched.
cargo fetch --locked --quiet

look_for curl:curl docker-registry:docker-registry skopeo:skopeo umoci:umoci mmdebstrap:mmdebstrap htpasswd:apache2-utils
look_for jq:jq gh:gh readelf:binutils
# Version 2, where Amazon's own installer has not put it; what else is called `aws` may be version 1.
[ -x /usr/local/bin/aws ] || look_for /usr/bin/aws:awscli
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
docker version >/dev/null 2>&1 || command -v dockerd >/dev/null || missing+=(docker.io)
# Version 2 of the AWS CLI, which no package index of Python has.
look_for /usr/bin/aws:awscli gh:gh
[ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"

if ! docker version >/dev/null 2>&1; then
  if pgrep -x dockerd >/dev/null 2>&1; then
    fail "a Docker engine runs, but does not answer $(id -un): is this user in the group docker?"
  fi
  # The socket belongs to the caller's group, so that the tests need no root.
  as_root setsid dockerd --group "$(id -gn)" >.tools/dockerd.log 2>&1 </dev/null &
  timeout 60 sh -c 'until docker version; do sleep 1; done' >/dev/null 2>&1 ||
    fail "dockerd did not start: $(tail -n 5 .tools/dockerd.log)"
fi
