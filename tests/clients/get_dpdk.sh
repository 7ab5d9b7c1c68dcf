#!/bin/sh
# DPDK's scripts that no binary package has, out of Debian's or Ubuntu's source package: get_dpdk.sh DIRECTORY
# Needs apt-get and no privilege: the lists of source packages are kept apart from the system's.
set -eu
to=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/parts" "$work/lists/partial" "$work/source"
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
  [ -f "$list" ] || continue
  case $list in
    *.sources) sed 's/^Types:.*/Types: deb-src/' "$list" ;;
    *.list) sed -n 's/^deb\(-src\)\{0,1\} /deb-src /p' "$list" ;;
    *) continue ;;
  esac > "$work/parts/${list##*/}" || true
done
apt() {
  apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/parts" \
    -o Dir::State::lists="$work/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
    -o APT::Sandbox::User="$(id -un)" "$@"
}
apt update 2>/dev/null || true  # other people's repositories may have no source packages
(cd "$work/source" && apt source --download-only dpdk)
mkdir -p "$to"
tar -xJf "$work"/source/dpdk_*.orig.tar.xz -C "$to" --wildcards --strip-components=4 '*/drivers/dma/idxd/dpdk_idxd_cfg.py'
