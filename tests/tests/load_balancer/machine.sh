#!/bin/bash
# A machine: the image's programs over a fresh /etc and /run, its own processes, mounts and name; /state lasts. $1 root, $2 its
# folder. Whoever kills this process cuts the power.
set -euo pipefail
root=$1 own=$2
mount -t tmpfs tmpfs "$own/boot"
mkdir -p "$own"/boot/{upper,work,root}
mount -t overlay -o "lowerdir=$root,upperdir=$own/boot/upper,workdir=$own/boot/work" overlay "$own/boot/root"
cd "$own/boot/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p state usr/share/ingot/trust
mount --bind "$own/state" state
rm -f etc/haproxy/haproxy.cfg
tr -d - </proc/sys/kernel/random/uuid >etc/machine-id
[ -e state/machine-id ] || cp etc/machine-id state/machine-id
cp state/machine-id etc/machine-id
echo load-balancer >usr/share/ingot/role
touch usr/share/ingot/trust/unsigned-profiles-allowed
install -m 644 "$own/signers" usr/share/ingot/trust/allowed_signers
install -m 755 "$own/installer" usr/bin/ingot-installer
install -m 755 "$own/systemctl" usr/bin/systemctl
: >run/booted
exec chroot . /bin/sleep 600
