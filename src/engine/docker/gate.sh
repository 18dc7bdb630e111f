# The first program of a container, before its own: it gives that its part of the cgroups as oardocker wants it seen. The engine
# shows it read-only, and on hybrid hosts in the form that systemd refuses.
#   $1: type of the filesystem at /sys/fs/cgroup    $2: v1 controllers, a line each: where, and its mount options
#   $3: the file that hears what is said
#   then, for each file of its own: text or link, path, content; then the word run, and what to run
exec >>"$3" 2>&1
view=$1 controllers=$2 console=$3
shift 3
umount -l "$console" && rm "$console"

fail() {
    echo "oardocker: $*"
    exit 1
}

if [ "$view" = cgroup2 ]; then
    while mountpoint -q /sys/fs/cgroup; do umount -R /sys/fs/cgroup || fail "cannot unmount /sys/fs/cgroup"; done
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup || fail "cannot mount /sys/fs/cgroup"
    # Only the root of the hierarchy, the host's, lacks this file.
    [ -e /sys/fs/cgroup/cgroup.events ] ||
        fail "the engine's OCI runtime leaves containers in the root of the v2 hierarchy: runc 1.1 or newer is needed"
else
    for hierarchy in /sys/fs/cgroup/*/; do
        [ -L "${hierarchy%/}" ] || mount -o remount,bind,rw "$hierarchy" || fail "cannot open $hierarchy for writing"
    done
fi
echo "$controllers" | while read -r target options; do
    [ -n "$target" ] || continue
    mkdir -p "$target"
    mount -t cgroup -o "nosuid,nodev,noexec,$options" cgroup "$target" || exit 1
done || fail "cannot mount the v1 controllers"

# The engine mounts some of them anew each time; what is below was written by the first boot, and changed since, perhaps.
made=/var/lib/oardocker-seeds
while [ "$1" != run ]; do
    umount "$2" 2>/dev/null
    if [ ! -e "$made" ]; then
        mkdir -p "${2%/*}" && rm -f "$2" || fail "cannot write $2"
        case $1 in
            text) printf %s "$3" > "$2" && chmod 644 "$2" ;;
            link) ln -s "$3" "$2" ;;
        esac || fail "cannot write $2"
    fi
    shift 3
done
: > "$made"
shift
exec "$@"
