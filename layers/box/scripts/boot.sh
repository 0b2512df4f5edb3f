#!/bin/sh
# Starts the sandbox: fills the token into nginx's files, makes the workspace a repository, then
# hands over to supervisord. With arguments it runs those instead.
set -eu
[ "$#" -eq 0 ] || exec "$@"

box=/agentscope_runtime
run=/run/sandbox

fail() { echo "boot: $*" >&2; exit 1; }

# A token is never a default: a launcher sets it, and without one it is made here and shown.
if [ -z "${SECRET_TOKEN-}" ]; then
    SECRET_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    echo "boot: SECRET_TOKEN is not set, this instance's is $SECRET_TOKEN" >&2
fi
case $SECRET_TOKEN in
    *[!A-Za-z0-9._~+/=-]*) fail "SECRET_TOKEN may have letters, digits and ._~+/=- only" ;;
esac
: "${NGINX_TIMEOUT:=60}"
case $NGINX_TIMEOUT in
    *[!0-9]*) fail "NGINX_TIMEOUT is a number of seconds, not \`$NGINX_TIMEOUT\`" ;;
esac
: "${WORKSPACE_DIR:=/workspace}"
export SECRET_TOKEN NGINX_TIMEOUT WORKSPACE_DIR

# Everything with the token in it lies where only root reads, and is gone with the instance.
(
    umask 077
    mkdir -p "$run/nginx"
    printf '%s\n' "$SECRET_TOKEN" >"$run/token"
    for template in "$box"/nginx/*.template; do
        envsubst '$SECRET_TOKEN $NGINX_TIMEOUT' <"$template" >"$run/nginx/$(basename "$template" .template)"
    done
)

# Images without MCP servers have no list of them.
[ -e "$box/mcp_server_configs.json" ] || echo '{"mcpServers": {}}' >"$box/mcp_server_configs.json" ||
    echo "boot: no list of MCP servers" >&2

# A mounted workspace hides the image's own repository. The first commit is empty: the watcher
# compares with it, and what lies there already counts as new.
seed() {
    cd "$WORKSPACE_DIR" || return
    git rev-parse --quiet --verify HEAD >/dev/null 2>&1 && return
    [ -e .git ] || git init --quiet --initial-branch=main
    git -c user.name=sandbox -c user.email=sandbox@localhost commit --quiet --allow-empty --only -m "start"
}
mkdir -p "$WORKSPACE_DIR"
seed || echo "boot: $WORKSPACE_DIR is no repository and cannot be made one: /watcher will not work" >&2

# supervisord looks at its programs once a second; a request on its socket makes it look at once.
(
    tries=100
    until curl --silent --output /dev/null --unix-socket "$run/supervisor.sock" http://localhost/; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || break
        sleep 0.02
    done
) &

cd "$WORKSPACE_DIR"
exec /usr/bin/supervisord --nodaemon --configuration "$box/supervisor/supervisord.conf"
