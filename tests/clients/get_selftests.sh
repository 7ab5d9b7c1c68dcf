#!/bin/sh
# The kernel's selftest of IOMMUFD and what it includes, out of a Debian package of Linux's source: get_selftests.sh DIRECTORY
# Needs apt-get and no privilege. Exit status 1: this distribution has no such package of Linux 6.12 or later.
set -eu
to=$1
package=$(apt-cache search --names-only '^linux-source-6\.(1[2-9]|[2-9][0-9])$' | awk '{print $1}' | sort -V | head -n 1)
[ -n "$package" ] || { echo "no package linux-source-6.12 here"; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$package" && dpkg-deb --fsys-tarfile ./*.deb |
  tar -xf - --wildcards --strip-components=3 './usr/src/linux-source-*.tar.xz')
mkdir -p "$to"
tar -xJf "$work"/linux-source-*.tar.xz -C "$to" --wildcards --strip-components=1 \
  '*/tools/testing/selftests/iommu/*' '*/drivers/iommu/iommufd/iommufd_test.h' \
  '*/include/uapi/linux/iommufd.h' '*/include/uapi/linux/vfio.h'
