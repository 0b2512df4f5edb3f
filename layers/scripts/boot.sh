#!/bin/sh
# Starts what was asked for, or waits: signals end it at once.
set -eu
if [ "$#" -gt 0 ]; then
    exec "$@"
fi
trap 'exit 0' TERM INT
echo "sandbox ready: $(python3 --version), $(git --version)"
while :; do
    sleep 86400 &
    wait "$!"
done
