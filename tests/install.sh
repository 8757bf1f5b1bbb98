# Installing what a build or a test run needs; sourced by ./quickstart and ./test.

# What every build needs.
build_packages=(g++ cmake ninja-build pkg-config nlohmann-json3-dev libcli11-dev libpcre2-dev libutf8proc-dev libjpeg62-turbo-dev libopenblas-dev
  libpng-dev libwebp-dev libcurl4-openssl-dev libssl-dev ca-certificates xz-utils)

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# install_packages NAME...: installs the missing ones with apt-get; silent and offline when all are there.
install_packages() {
  local missing=() name
  if ! command -v dpkg-query >/dev/null; then
    echo "This is no Debian system; these packages (or their like) must be there: $*"
    return
  fi
  for name in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    echo "all installed"
    return
  fi
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "packages are missing, and neither root nor sudo is at hand: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  echo "installing: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq || echo "apt-get update failed; going on with the package lists that are there"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    >/dev/null || fail "apt-get could not install: ${missing[*]} (is there a network?)"
}
