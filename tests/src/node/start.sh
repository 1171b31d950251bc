#!/bin/bash
# start.sh NAME FOLDER IMAGE OFFSET SIZE NETNS GROUP [NSPAWN OPTION]...: becomes the systemd-nspawn that runs the root
# of IMAGE (an erofs of SIZE bytes at OFFSET) as a node. Run in a mount namespace of its own.
# FOLDER/state is /state of the node; what is written to /etc is forgotten.
set -eu
name=$1 folder=$2 image=$3 offset=$4 size=$5 netns=$6 group=$7
shift 7
root=$folder/root layer=$folder/etc
mkdir -p "$root" "$layer" "$folder"/state/{var,ssh,ingot}
chmod 0700 "$folder/state/ingot"

# As the initrd leaves it: the read-only root, /etc in memory over it, the machine-id of the (here: virtual) firmware.
mount -t erofs -o "ro,loop,offset=$offset,sizelimit=$size" "$image" "$root"
mount -t tmpfs -o mode=0700 etc "$layer"
mkdir -m 0755 "$layer/upper" "$layer/work"
mount -t overlay -o "lowerdir=$root/etc,upperdir=$layer/upper,workdir=$layer/work" etc "$root/etc"
printf '%s' "$group" | md5sum | cut -c1-32 > "$root/etc/machine-id"

# Nodes of one image have one file system, which nspawn would let only one of them have.
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=0755 nspawn /run/systemd/nspawn

# Its own control groups, from which nspawn's namespace of them begins.
legacy=()
if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
  mkdir -p "/sys/fs/cgroup/$group" && echo $$ > "/sys/fs/cgroup/$group/cgroup.procs"
else
  legacy=(systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1)
  export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=0
  while IFS=: read -r _ controllers path; do
    case $controllers in '') base=/sys/fs/cgroup/unified ;; *) base=/sys/fs/cgroup/${controllers#name=} ;; esac
    [ -d "$base" ] || continue
    if [ -d "$base$path" ]; then base=${base}${path%/}; fi
    mkdir -p "$base/$group"
    if [ "$controllers" = cpuset ]; then
      for what in cpus mems; do cat "$base/cpuset.$what" > "$base/$group/cpuset.$what"; done
      echo 1 > "$base/$group/cgroup.clone_children"
    fi
    echo $$ > "$base/$group/cgroup.procs"
  done < <(cat /proc/self/cgroup)
fi

export SYSTEMD_SECCOMP=0
exec nsenter --net="/run/netns/$netns" systemd-nspawn --quiet --register=no --keep-unit --machine="$name" --directory="$root" \
  --network-bridge=ingot0 --capability=all --bind=/dev/kmsg --bind="$folder/state:/state" --resolv-conf=off --timezone=off \
  --link-journal=no --console=pipe "$@" --boot -- systemd.wants=harness.service "${legacy[@]}"
