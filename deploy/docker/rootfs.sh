#!/bin/sh
# Fills a folder with all that the image has: the program, the libraries that it is linked to, the CA bundle, and who
# it runs as. The Dockerfile and the tests run the same script; the tests then enter the folder and run bearerd in it.
# Usage: rootfs.sh BINARY FOLDER
set -eu
binary=$1
root=$2

mkdir -p "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/etc/bearerd" "$root/run/secrets" "$root/tmp"
chmod 1777 "$root/tmp"
cp "$binary" "$root/usr/local/bin/bearerd"
chmod 755 "$root/usr/local/bin/bearerd"

# The loader has a path of its own; the others are written `name => path (address)`.
ldd "$binary" | awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done

cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo 'bearerd:x:65532:65532:bearerd:/nonexistent:/usr/sbin/nologin' > "$root/etc/passwd"
echo 'bearerd:x:65532:' > "$root/etc/group"
# /etc/hosts goes before DNS, as everywhere; without this file it would not.
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"

# Which Debian packages the files are from: scanners read it, and their licences come along.
mkdir -p "$root/var/lib/dpkg/status.d"
for package in libc6 libgcc-s1 ca-certificates; do
  dpkg-query --status "$package" > "$root/var/lib/dpkg/status.d/$package"
  mkdir -p "$root/usr/share/doc/$package"
  cp -L "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
done
