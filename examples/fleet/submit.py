"""Gives a job to the fleet and waits for its answer, with nothing but nats-py (pip install nats-py).

    submit.py nats://127.0.0.1:4222 MODEL request.json [--id ID] [--priority high|normal|low] [--credentials FILE]

Prints the answer. What the subjects, headers and buckets mean: docs/fleet.md.
"""

import argparse
import asyncio
import pathlib
import sys
import uuid

import nats
from nats.js.errors import NotFoundError

ROOM_FOR_HEADERS = 64 << 10
# Seconds between two looks at the stream.
SOON, SELDOM = 0.001, 5


async def put_job(stream, client, arguments, body):
    """Publishes it once: a second job of the same id is dropped by the server, or by whoever has the answer."""
    subject = f"JETSPOOL.jobs.{arguments.model}.{arguments.priority}"
    headers = {"Nats-Msg-Id": arguments.id, "Jetspool-Format": arguments.file.suffix.lstrip(".")}
    if len(body) > client.max_payload - ROOM_FOR_HEADERS:
        bucket = await stream.object_store("JETSPOOL_jobs")
        name = f"{arguments.model}.{arguments.id}"
        await bucket.put(name, body)
        headers["Jetspool-Object"] = name
        body = b""
    await stream.publish(subject, body, headers=headers, stream="JETSPOOL_JOBS")


async def stored_answer(stream, subject):
    """The answer that the stream holds; None if it holds none yet."""
    try:
        message = await stream.get_last_msg("JETSPOOL_ANSWERS", subject)
    except NotFoundError:
        return None
    name = (message.headers or {}).get("Jetspool-Object")
    if name is None:
        return message.data
    bucket = await stream.object_store("JETSPOOL_answers")
    return (await bucket.get(name)).data


async def answer_of(stream, client, arguments):
    """A message on the answer's subject only says that it is time to look: what counts is what the stream holds."""
    subject = f"JETSPOOL.answers.{arguments.model}.{arguments.id}"
    hints = await client.subscribe(subject)
    pause = SOON
    while True:
        answer = await stored_answer(stream, subject)
        if answer is not None:
            return answer
        try:
            await hints.next_msg(timeout=pause)
            # The stream may store it a moment later.
            pause = SOON
        except nats.errors.TimeoutError:
            pause = min(2 * pause, SELDOM)


async def main(arguments):
    client = await nats.connect(arguments.server, user_credentials=arguments.credentials)
    stream = client.jetstream()
    await put_job(stream, client, arguments, arguments.file.read_bytes())
    print(f"waiting for the answer to {arguments.id}", file=sys.stderr)
    sys.stdout.buffer.write(await answer_of(stream, client, arguments))
    await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server")
    parser.add_argument("model")
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--id", default=uuid.uuid4().hex)
    parser.add_argument("--priority", choices=["high", "normal", "low"], default="normal")
    parser.add_argument("--credentials")
    asyncio.run(main(parser.parse_args()))
