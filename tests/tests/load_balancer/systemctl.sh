#!/bin/bash
# Plays the service manager for the two units of the role, as their unit files say.
verb=$1
shift
[ "$1" = --no-block ] && shift
runs() { [ -e "/run/$1.pid" ] && [ -d "/proc/$(cat "/run/$1.pid")" ]; }
configuration=(-f /etc/haproxy/haproxy.cfg -f /run/ingot/services)
for unit; do
  echo "$verb $unit" >>/run/told
  case $verb:$unit in
    start:haproxy.service)
      runs haproxy && continue
      mkdir -p /run/haproxy /run/ingot/services
      setsid haproxy -W "${configuration[@]}" -p /run/haproxy.pid -S /run/haproxy-master.sock </dev/null >>/run/haproxy.log 2>&1 & ;;
    try-reload-or-restart:haproxy.service)
      runs haproxy || continue
      haproxy -c -q "${configuration[@]}" && kill -USR2 "$(cat /run/haproxy.pid)" ;;
    start:keepalived.service)
      runs keepalived && continue
      setsid keepalived --dont-fork --log-console </dev/null >>/run/keepalived.log 2>&1 & ;;
    try-reload-or-restart:keepalived.service)
      runs keepalived || continue
      keepalived -t && kill -HUP "$(cat /run/keepalived.pid)" ;;
  esac || exit 1
done
exit 0
