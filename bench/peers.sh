#!/bin/sh
# Bring PostgreSQL 18 and pgBackRest of Debian's next release beside the system's own: a chroot made by debootstrap, and
# beside it `bin` with programs that run outside of it, on the chroot's own loader and libraries.
#
#   bench/peers.sh [--suite SUITE] [--chroot DIR] [DIR]     DIR: where to (default: BENCH_PEERS, /var/cache/pgrecall-bench)
#
# As root, on Debian. --chroot names a chroot that is there already. Nothing is installed into the system but debootstrap.
set -eu
umask 022
suite=forky
chroot=
place=${BENCH_PEERS:-/var/cache/pgrecall-bench}
while [ $# -gt 0 ]; do
    case $1 in
        --suite) suite=$2; shift 2 ;;
        --chroot) chroot=$2; shift 2 ;;
        -*) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
        *) place=$1; shift ;;
    esac
done
say() { printf '%s\n' "$*" >&2; }
major=18

make_chroot() {
    [ "$(id -u)" = 0 ] || { say "debootstrap needs root."; exit 1; }
    command -v debootstrap >/dev/null || apt-get -qq install -y --no-install-recommends debootstrap >/dev/null
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | sort -u | head -n 1)
    [ -n "$mirror" ] || { say "apt has no sources here."; exit 1; }
    script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || ln -s sid "$script"
    say "Making a chroot of Debian $suite in $chroot…"
    mkdir -p "$chroot"
    debootstrap --variant=minbase "$suite" "$chroot" "$mirror" >"$chroot.log" 2>&1 || { tail "$chroot.log" >&2; exit 1; }
    # No service is started in there, no cluster is made.
    printf '#!/bin/sh\nexit 101\n' >"$chroot/usr/sbin/policy-rc.d"
    chmod 755 "$chroot/usr/sbin/policy-rc.d"
    mkdir -p "$chroot/etc/postgresql-common"
    echo 'create_main_cluster = false' >"$chroot/etc/postgresql-common/createcluster.conf"
    mount -t proc proc "$chroot/proc"
    trap 'umount "$chroot/proc"' EXIT
    chroot "$chroot" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        "postgresql-$major" pgbackrest >>"$chroot.log" 2>&1 || { tail "$chroot.log" >&2; exit 1; }
    umount "$chroot/proc"
    trap - EXIT
}

if [ -z "$chroot" ]; then
    chroot=$place/$suite
    [ -x "$chroot/usr/bin/pgbackrest" ] || make_chroot
fi

# PostgreSQL finds its share and lib directories relative to its programs, so the wrappers lie in a tree like its own.
programs=usr/lib/postgresql/$major
loader=$(find "$chroot/usr/lib" -name 'ld-linux*' -type f | head -n 1)
libraries=$(dirname "$loader")
tree=$place/tree
rm -rf "$tree"
mkdir -p "$tree/$programs/bin" "$tree/usr/share" "$tree/usr/lib"
ln -s "$chroot/$programs/lib" "$tree/$programs/lib"
ln -s "$chroot/usr/share/postgresql" "$tree/usr/share/postgresql"
wrap() { # wrap PROGRAM NAME
    cat >"$tree/$programs/bin/$2" <<WRAPPER
#!/bin/sh
exec "$loader" --argv0 "\$0" --library-path "$libraries" "$1" "\$@"
WRAPPER
    chmod 755 "$tree/$programs/bin/$2"
}
for program in "$chroot/$programs"/bin/*; do
    wrap "$program" "${program##*/}"
done
wrap "$chroot/usr/bin/pgbackrest" pgbackrest
ln -sfn "tree/$programs/bin" "$place/bin"
"$place/bin/postgres" --version
"$place/bin/pgbackrest" version
