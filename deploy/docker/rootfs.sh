#!/bin/sh
# Fills a folder with all that the image has: the program, the libraries that it is linked to, the CA bundle, and who
# it runs as. The Dockerfile and the tests run the same script; the tests then enter the folder and run bearerd in it.
# The same program and the same Debian packages give the same files: every time is that of SOURCE_DATE_EPOCH.
# Usage: rootfs.sh BINARY FOLDER [DEBIAN-ARCHITECTURE]
set -eu
binary=$1
root=$2
architecture=${3:-$(dpkg --print-architecture)}

mkdir -p "$root/usr/local/bin" "$root/etc/ssl/certs" "$root/etc/bearerd" "$root/run/secrets" "$root/tmp"
cp "$binary" "$root/usr/local/bin/bearerd"
chmod 755 "$root/usr/local/bin/bearerd"

# The loader, by its path, and the libraries, by their names; `ldd` would run the program, which may be for another machine.
readelf --wide --program-headers --dynamic "$binary" |
  sed -n 's/.*program interpreter: \(.*\)\]/\1/p; s/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort --unique |
  while read -r library; do
    case "$library" in
      /*) path=$library ;;
      *)
        path=$(dpkg-query --listfiles "libc6:$architecture" "libgcc-s1:$architecture" | grep "/$library\$" | head -n 1)
        # The loader is a library too, and there already.
        case "$library" in ld-*) continue ;; esac
        ;;
    esac
    mkdir -p "$root$(dirname "$path")"
    cp -L "$path" "$root$path"
  done

cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
echo 'bearerd:x:65532:65532:bearerd:/nonexistent:/usr/sbin/nologin' > "$root/etc/passwd"
echo 'bearerd:x:65532:' > "$root/etc/group"
# /etc/hosts goes before DNS, as everywhere; without this file it would not.
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"

# Which Debian packages the files are from: scanners read it, and their licences come along.
mkdir -p "$root/var/lib/dpkg/status.d"
for package in "libc6:$architecture" "libgcc-s1:$architecture" ca-certificates; do
  name=${package%:*}
  dpkg-query --status "$package" > "$root/var/lib/dpkg/status.d/$name"
  mkdir -p "$root/usr/share/doc/$name"
  cp -L "/usr/share/doc/$name/copyright" "$root/usr/share/doc/$name/copyright"
done

# Whatever mask this ran with.
chmod -R u=rwX,go=rX "$root"
chmod 1777 "$root/tmp"
find "$root" -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +
