#!/bin/sh
# systemd as the first process of namespaces of its own, which ends with the process that runs this.
#
#   manager.sh boot FOLDER     its files are FOLDER/units; to be run under `unshare --mount`
#   manager.sh probe FOLDER    the same, but for systemd
#   manager.sh clean FOLDER    removes the control groups that are left; under `unshare --mount`, too
set -eu
what=$1 folder=$2

# Where the test's own control group is, seen from a mount that nobody else sees.
control_group() {
    mount --make-rprivate /
    mkdir -p "$folder/cgroup"
    mount -t cgroup2 none "$folder/cgroup"
    group="$folder/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/$(basename "$folder")"
}

case $what in
boot | probe)
    # A control group of our own, so that two at a time do not meet.
    control_group
    mkdir -p "$group"
    echo $$ >"$group/cgroup.procs"
    exec unshare --mount --pid --fork --mount-proc --cgroup --uts --ipc --kill-child "$0" "init-$what" "$folder"
    ;;
init-boot | init-probe)
    mount --make-rprivate /
    umount -R /sys/fs/cgroup 2>/dev/null || true
    mount -t cgroup2 none /sys/fs/cgroup
    mount -t tmpfs tmpfs /run
    # Nothing outside the folder can be written to, nor any setting of the kernel.
    mount --bind "$folder" "$folder"
    mount --bind /proc/sys /proc/sys
    mount -o remount,bind,ro /proc/sys
    mount -o remount,bind,ro /
    mkdir -p /run/systemd/system /run/lock
    [ "$what" = init-boot ] || exit 0
    cp -r "$folder/units/." /run/systemd/system
    export container=exuvia-test
    exec /lib/systemd/systemd --system --unit=test.target --log-target=console --show-status=no
    ;;
clean)
    control_group
    [ -d "$group" ] || exit 0
    find "$group" -depth -type d -exec rmdir {} +
    ;;
esac
