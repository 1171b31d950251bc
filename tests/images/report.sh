#!/bin/bash
# report [SECONDS [STATES]]: facts that the VM stories ask for, one KEY=value a line, then power off.
# The role first, where there is a profile, until it is in one of these states, for at most this long; then the rest.
for _ in $(seq "${1:-300}"); do
  grep -qE '"state": "('"${2:-ready|failed}"')"' /run/ingot/status.json 2>/dev/null && break
  sleep 1
done
state=$(sed -nE 's/.*"state": "([a-z]+)".*/\1/p' /run/ingot/status.json | head -n 1)
if [ "$state" = ready ]; then systemctl is-system-running --wait >/run/running 2>/dev/null
else systemctl is-system-running >/run/running 2>/dev/null; fi
echo
echo "status=$state"
echo "host_name=$(cat /proc/sys/kernel/hostname)"
echo "boot_complete=$(systemctl is-active boot-complete.target)"
if [ -S /run/haproxy/admin.sock ]; then
  echo "haproxy=$(systemctl is-active haproxy keepalived | tr '\n' ' ') $(/usr/bin/ingot-installer check-haproxy && echo UP)"
  # A test on the host asks through the virtual address meanwhile.
  sleep 8
fi
if [ -e /etc/kubernetes/admin.conf ]; then
  export KUBECONFIG=/etc/kubernetes/admin.conf
  echo "nodes=$(kubectl get nodes --no-headers | awk '{ print $1, $2 }' | tr '\n' ';')"
  echo "pods=$(kubectl get pods --all-namespaces --no-headers | awk '{ print $2 "=" $4 }' | tr '\n' ' ')"
  echo "cgroups=$(stat -fc %T /sys/fs/cgroup) $(sed -n 's/^cgroupDriver: //p' /var/lib/kubelet/config.yaml)"
  crictl ps -a 2>&1 | sed 's/^/container: /'
fi
echo "running=$(cat /run/running)"
echo "failed=$(systemctl --failed --plain --no-legend | awk '{ print $1 }' | tr '\n' ' ')"
echo "multi_user=$(systemctl is-active multi-user.target)"
echo "machine_id=$(cat /etc/machine-id)"
echo "secure_boot=$(od -An -t u1 -j 4 -N 1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c 2>/dev/null | tr -d ' ')"
echo "lockdown=$(cat /sys/kernel/security/lockdown 2>/dev/null)"
echo "root=$(findmnt -no SOURCE,FSTYPE,OPTIONS /)"
echo "etc=$(findmnt -no FSTYPE /etc)"
echo "var=$(findmnt -no SOURCE,FSTYPE /var)"
echo "partitions=$(lsblk -nro PARTLABEL,SIZE 2>/dev/null | grep . | tr '\n' ';')"
echo "listening=$(ss -Hltnu | awk '{ print $1 "/" $5 }' | sort -u | tr '\n' ' ')"
touch /etc/written && echo "etc_writable=yes"
touch /usr/written 2>/dev/null || echo "usr_writable=no"
echo "boots=$(($(cat /var/boots 2>/dev/null || echo 0) + 1))"
echo $(($(cat /var/boots 2>/dev/null || echo 0) + 1)) >/var/boots
[ -e /etc/marker ] && echo "etc_kept=yes"
touch /etc/marker
# CPU of the installer with all it runs, and of all of userspace until now, in ms (the latter in ticks of 10 ms).
spent() { echo $(($(systemctl show -P CPUUsageNSec "$1.service") / 1000000)); }
read -r _ user nice system _ </proc/stat
echo "state_cpu=$(spent ingot-state)"
echo "installer_cpu=$(($(spent ingot-installer) + $(spent ingot-ready)))"
echo "all_cpu=$(((user + nice + system) * 10))"
# What the installer has rendered, for a machine that has it in its image.
echo "rendered=$(cd / && tar -cz etc/haproxy etc/keepalived etc/systemd/network 2>/dev/null | base64 -w 0)"
echo "time=$(systemd-analyze time | head -n 1)"
[ "$(cat /run/running)" = running ] || journalctl -b -p warning --no-pager -o cat | tail -n 60 | sed "s/^/journal: /"
echo "reported=yes"
sync
systemctl poweroff --no-block
