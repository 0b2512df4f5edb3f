# What the benchmarks share; read by each. The reader sets `needs` (program and package, in turn) and
# `work` before `bench_start`, and calls `bench_end` at its end.

say() { echo "bench: $*" >&2; }

# alone NAME ARGUMENTS…: on two processors, with a mount namespace of its own
alone() {
    [ -z "${BENCH_ALONE-}" ] || return 0
    BENCH_ALONE=1 exec taskset -c "${CPUS:-0,1}" unshare --mount --propagation private "$@"
}

# Installs what is missing, finds or builds the program, and makes the place to work in.
bench_start() {
    local missing=() at
    for ((at = 0; at < ${#needs[@]}; at += 2)); do
        command -v "${needs[at]}" >/dev/null || missing+=("${needs[at + 1]}")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        say "installing ${missing[*]}"
        apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
    fi
    sbx=${SBX-}
    if [ -z "$sbx" ]; then
        say "building sbx"
        cargo build --quiet --release
        sbx=$PWD/target/release/sbx
    fi
    unset SBX_CACHE
    temporary=
    if [ -z "$work" ]; then
        work=$(mktemp -d -p /var/tmp sbx-bench.XXXXXX)
        temporary=1
    fi
    mkdir -p "$work"
    rm -f "$work"/*.peak
}

# bench_end PROJECT…
bench_end() {
    local project
    [ -n "$temporary" ] || return 0
    for project in "$@"; do
        "$sbx" clean --all --project "$project" >/dev/null 2>&1 || true
    done
    # what is still mounted below is somebody else's
    rm -rf --one-file-system "$work"
}

# median RUNS PREPARE COMMAND: seconds; a PREPARE of `true` is nothing
median() {
    hyperfine -N --warmup "${warmup:-0}" --runs "$1" --prepare "$2" --export-json "$work/times.json" "$3" \
        >"$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; return 1; }
    python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["results"][0]["median"])' "$work/times.json"
}
seconds() { LC_ALL=C printf '%.2f s' "$1"; }
milliseconds() { LC_ALL=C printf '%.1f ms' "$(echo "$1 * 1000" | bc -l)"; }
times() { LC_ALL=C printf '%.1f×' "$(echo "$1 / $2" | bc -l)"; }
peak() { LC_ALL=C printf '%d MiB' $(($(sort -n "$1" | tail -1) / 1024)); }
measured_peak() { echo "/usr/bin/time -a -f %M -o $1"; }

# Where and when.
conditions() {
    echo "$(date +%Y-%m-%d), load of the last minutes at the end $(cut -d' ' -f1-3 /proc/loadavg) on $(getconf _NPROCESSORS_CONF) processors;"
    sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1
}
