#!/bin/sh
# Prepares Debian and Rust to build for this architecture, as Docker and Debian name it, on a machine of another: compiler,
# libraries and Rust's target. On a machine of the same kind there is nothing to do. Prints Rust's name of the target.
# Usage: cross.sh ARCHITECTURE
set -eu
case "$1" in
  amd64) gnu=x86_64-linux-gnu rust=x86_64-unknown-linux-gnu ;;
  arm64) gnu=aarch64-linux-gnu rust=aarch64-unknown-linux-gnu ;;
  *) echo "$1 is none of amd64 and arm64" >&2; exit 64 ;;
esac
if [ "$1" != "$(dpkg --print-architecture)" ]; then
  {
    dpkg --add-architecture "$1"
    apt-get update
    # g++ brings the headers of C for the target.
    apt-get install --yes --no-install-recommends "gcc-$gnu" "libc6-dev-$1-cross" "libc6:$1" "libgcc-s1:$1"
    rustup target add "$rust"
  } >&2
fi
echo "$rust"
