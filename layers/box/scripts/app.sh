#!/bin/sh
# The app answers on loopback; nginx stands before it. It takes its directory for the repository.
set -eu
cd "$WORKSPACE_DIR"
exec /agentscope_runtime/venv/bin/python -m uvicorn box:app --app-dir /agentscope_runtime \
    --host 127.0.0.1 --port 8000 --no-access-log
