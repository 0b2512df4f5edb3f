# A current docker out of trixie's packages, in a chroot, or that of this machine, each with a daemon and
# data of its own; read by the benchmarks. The reader has a mount namespace of its own and calls
# `docker_stop` at its end.

docker_root=
docker_pid=
docker_host=
docker="false docker_start was not called"

# docker_install ROOT SOURCES BOOTSTRAP
docker_install() {
    docker_root=$1
    [ -x "$1/usr/sbin/dockerd" ] && return
    rm -rf --one-file-system "$1"
    $3 --include=ca-certificates,docker-buildx,docker-cli,docker.io trixie "$1" - <"$2" >&2
}

# docker_mount ROOT: a /dev of its own, and of the host's /sys what cannot be deleted through it
docker_mount() {
    mount --bind "$1" "$1"
    mount -t proc proc "$1/proc"
    mount --rbind /sys "$1/sys"
    mount -t tmpfs -o mode=755 tmpfs "$1/dev"
    mknod -m 666 "$1/dev/null" c 1 3
    mknod -m 666 "$1/dev/zero" c 1 5
    mknod -m 666 "$1/dev/full" c 1 7
    mknod -m 666 "$1/dev/random" c 1 8
    mknod -m 666 "$1/dev/urandom" c 1 9
    mknod -m 666 "$1/dev/tty" c 5 0
    mkdir "$1/dev/pts" "$1/dev/shm"
    ln -s /proc/self/fd "$1/dev/fd"
    mount -t tmpfs tmpfs "$1/run"
}

docker_start() {
    docker_mount "$docker_root"
    cat /etc/resolv.conf >"$docker_root/etc/resolv.conf"
    cat /etc/hosts >"$docker_root/etc/hosts"
    docker_groups_before=$(docker_groups)
    # no bridge and no firewall rules: nothing of the host's network is touched
    chroot "$docker_root" dockerd --host unix:///run/bench.sock --data-root /var/lib/bench --exec-root /run/bench \
        --pidfile /run/bench.pid --bridge none --iptables=false --ip6tables=false >"$docker_root/dockerd.log" 2>&1 &
    docker_pid=$!
    docker="chroot $docker_root docker --host unix:///run/bench.sock"
    docker_host=unix://$docker_root/run/bench.sock
    docker_wait "$docker_root/dockerd.log"
}

# docker_start_own DIRECTORY: this machine's docker, with its data there
docker_start_own() {
    docker_host=unix://$1/docker.sock
    docker="$(type -P docker) --host $docker_host"
    docker_groups_before=$(docker_groups)
    mkdir -p "$1"
    dockerd --host "$docker_host" --data-root "$1/data" --exec-root "$1/run" --pidfile "$1/docker.pid" \
        --bridge none --iptables=false --ip6tables=false >"$1/dockerd.log" 2>&1 &
    docker_pid=$!
    docker_wait "$1/dockerd.log"
}

# docker_wait LOG: until it answers
docker_wait() {
    local tries=150
    until $docker info >/dev/null 2>&1; do
        tries=$((tries - 1))
        if [ "$tries" = 0 ] || ! kill -0 "$docker_pid" 2>/dev/null; then
            tail -n 20 "$1" >&2
            return 1
        fi
        sleep 0.2
    done
}

docker() { $docker "$@"; }

# docker_peak FILE: of the daemon and of what it started to keep containers, in KiB
docker_peak() {
    local pid
    for pid in "$docker_pid" $(pgrep -P "$docker_pid"); do
        sed -n 's/^VmHWM:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status"
    done >"$1"
}

docker_groups() { find /sys/fs/cgroup -type d \( -name docker -o -name buildkit \) 2>/dev/null | sort; }

docker_stop() {
    [ -n "$docker_pid" ] || return 0
    kill "$docker_pid" 2>/dev/null || true
    wait "$docker_pid" 2>/dev/null || true
    docker_pid=
    [ -z "$docker_root" ] || umount --recursive --lazy "$docker_root"
    # groups that only this daemon can have made are empty now
    local group
    comm -13 <(echo "$docker_groups_before") <(docker_groups) | while read -r group; do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
}
