#!/bin/sh
# on-display.sh COMMAND…: runs a program once the display is there.
set -eu
socket=/tmp/.X11-unix/X${DISPLAY#:}
tries=300
until [ -S "$socket" ]; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo "on-display: no display $DISPLAY after 30 s" >&2; exit 1; }
    sleep 0.1
done
exec "$@"
