#!/bin/sh
# The headers of newer kernels, out of Debian's later suites: get_headers.sh DIRECTORY makes DIRECTORY/SUITE/linux and so on.
# Needs apt-get and no privilege: the lists are kept apart from the system's. Where the system is no Debian it makes nothing.
set -eu
mkdir -p "$1"
to=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. /etc/os-release
[ "$ID" = debian ] || { echo "not Debian: only the installed headers are compared"; exit 0; }
mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
  sed -n 's/^deb *\(\[[^]]*\]\)\{0,1\} *\([^ ]*\).*/\2/p; s/^URIs: *\([^ ]*\).*/\1/p' | grep -v security | head -n 1)
for suite in trixie trixie-backports sid; do
  [ -d "$to/$suite" ] && continue
  here="$work/$suite"
  mkdir -p "$here/parts" "$here/lists/partial" "$here/deb"
  printf 'deb [arch=amd64] %s %s main\n' "$mirror" "$suite" > "$here/parts/one.list"
  apt() {
    apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$here/parts" -o APT::Architecture=amd64 \
      -o Dir::State::lists="$here/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
      -o APT::Sandbox::User="$(id -un)" "$@"
  }
  apt update
  # Debian's pool has the newest of each suite
  (cd "$here/deb" && apt download linux-libc-dev && dpkg-deb -x linux-libc-dev_*.deb .)
  mkdir "$here/include"
  cp -r "$here"/deb/usr/include/linux "$here"/deb/usr/include/asm-generic "$here/include"
  asm="$here/deb/usr/lib/linux/uapi/x86/asm"
  [ -d "$asm" ] || asm="$here/deb/usr/include/x86_64-linux-gnu/asm"
  cp -rL "$asm" "$here/include/asm"
  mv "$here/include" "$to/$suite"
done
