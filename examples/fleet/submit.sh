#!/usr/bin/env bash
# Gives a job to the fleet and waits for its answer, with the nats command line (github.com/nats-io/natscli) alone.
#
#   submit.sh MODEL request.json [ID]
#
# Server and credentials are the tool's: NATS_URL, NATS_CREDS or a context. Jobs and answers up to the server's
# max_payload; how larger ones travel: docs/fleet.md.
set -euo pipefail

model=$1 file=$2
id=${3:-$(date +%s)-$$}
answers=JETSPOOL.answers.$model.$id

# The server drops a second job of the same id. Without --no-templates "{{" in a request would be the tool's own.
nats publish "JETSPOOL.jobs.$model.normal" --jetstream --no-templates --force-stdin --quiet \
    --header "Nats-Msg-Id:$id" --header "Jetspool-Format:${file##*.}" <"$file" >&2
echo "waiting for the answer to $id" >&2

# The answer that the stream holds, or the next one.
nats subscribe "$answers" --stream JETSPOOL_ANSWERS --all --count 1 --raw
