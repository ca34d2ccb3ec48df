"""Measures the bridge: see scripts/bench-fleet."""

import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

import nats

DEMO = pathlib.Path("tests/data/demo")
MODEL = "bench"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def job(number):
    """One request, two tokens."""
    request = {"messages": [{"role": "user", "content": f"Hello {number}"}], "max_generate_length": 2}
    return json.dumps({"temperature": 0, "requests": [request]}).encode()


class Server:
    def __init__(self, program, folder):
        self.port = free_port()
        config = folder / "server.conf"
        config.write_text(f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{folder}/store" }}\n')
        self.process = subprocess.Popen([program, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = f"nats://127.0.0.1:{self.port}"


class Device:
    """A spool with a daemon and a bridge."""

    def __init__(self, jetspool, folder, name, engine, url):
        self.jetspool, self.name = jetspool, name
        self.root = folder / name
        self.root.mkdir()
        self.spool = self.root / "spool"
        (self.spool / "new").mkdir(parents=True)
        self.config = self.root / "jetspool.toml"
        self.config.write_text(
            f'engine = "{engine}"\nspool = "{self.spool}"\nadapters = ""\nthreads = 1\n'
            f'[bridge]\nservers = ["{url}"]\nmodel = "{MODEL}"\ndevice = "{name}"\nadapters = "{self.root}/fetched"\n'
        )
        self.processes = []

    def start(self, *words):
        log = open(self.root / f"{words[0]}.log", "ab")
        command = [self.jetspool, *words, "--config", self.config]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log))
        return self.processes[-1]

    def start_daemon(self):
        self.start("serve")
        while "ready:" not in (self.root / "serve.log").read_text():
            time.sleep(0.01)

    def stop(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.wait()
        self.processes = []

    def drop(self, name, body):
        hidden = self.spool / "new" / f".{name}"
        hidden.write_bytes(body)
        hidden.rename(self.spool / "new" / name)


def anonymous_mb(process):
    for line in pathlib.Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("no Anonymous in smaps_rollup")


def cpu_seconds(process):
    words = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def answered(subscription, ids):
    """Waits until these jobs have an answer. A listener may hear of an answer that the stream then refuses."""
    left = set(ids)
    while left:
        left.discard((await subscription.next_msg(timeout=600)).subject.rsplit(".", 1)[1])


async def latency(device, stream, client, count):
    """Medians of milliseconds, and of the server's own: dropped into the spool, and through the queue."""
    own, queue, server = [], [], []
    subscription = await client.subscribe(f"JETSPOOL.answers.{MODEL}.*")
    await client.flush()
    for number in range(count):
        name = f"own-{number}.json"
        begin = time.perf_counter()
        device.drop(name, job(number))
        while not (device.spool / "out" / name).exists():
            await asyncio.sleep(0.0002)
        own.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        subject, headers = f"JETSPOOL.jobs.{MODEL}.normal", {"Nats-Msg-Id": f"latency-{number}"}
        await stream.publish(subject, job(number), headers=headers)
        server.append(time.perf_counter() - begin)
        await answered(subscription, [f"latency-{number}"])
        queue.append(time.perf_counter() - begin)
    await subscription.unsubscribe()
    return [1e3 * statistics.median(times) for times in (own, queue, server)]


async def alone(device, count):
    """Jobs per second of the daemon on its own spool."""
    before = len(os.listdir(device.spool / "out"))
    begin = time.perf_counter()
    for number in range(count):
        device.drop(f"alone-{number}.json", job(number))
    while len(os.listdir(device.spool / "out")) < before + count:
        await asyncio.sleep(0.002)
    return count / (time.perf_counter() - begin)


async def through_queue(devices, server, stream, client, count, mark):
    """Jobs per second when all jobs are queued before the bridges start; a bridge's most memory and its last, MB;
    milliseconds of the processor per job: of the server, of the bridges."""
    subject = f"JETSPOOL.jobs.{MODEL}.normal"
    subscription = await client.subscribe(f"JETSPOOL.answers.{MODEL}.*")
    ids = [f"{mark}-{number}" for number in range(count)]
    for number, name in enumerate(ids):
        await stream.publish(subject, job(number), headers={"Nats-Msg-Id": name})
    begin, server_before = time.perf_counter(), cpu_seconds(server.process)
    bridges = [device.start("bridge") for device in devices]
    waiting = asyncio.create_task(answered(subscription, ids))
    most = 0.0
    while not waiting.done():
        most = max([most, *map(anonymous_mb, bridges)])
        await asyncio.sleep(0.02)
    waiting.result()
    seconds = time.perf_counter() - begin
    cost = [1e3 * (cpu_seconds(server.process) - server_before) / count, 1e3 * sum(map(cpu_seconds, bridges)) / count]
    await subscription.unsubscribe()
    await asyncio.sleep(1)
    return count / seconds, most, max(map(anonymous_mb, bridges)), cost


async def main(arguments, folder, stack):
    engine = folder / "engine"
    build = [arguments.jetspool, "build", "--modelDir", DEMO / "checkpoint", "--engineDir", engine]
    subprocess.run([*build, "--precision", "int8", "--maxInputLen", "256", "--maxKVCacheCapacity", "512"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(arguments.server, folder)
    stack.callback(server.process.kill)
    client = await nats.connect(server.url, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    stream = client.jetstream()
    most_devices = max(arguments.devices)
    devices = [Device(arguments.jetspool, folder, f"d{i}", engine, server.url) for i in range(most_devices)]
    for device in devices:
        stack.callback(device.stop)
    subprocess.run([arguments.jetspool, "bridge", "init", "--config", devices[0].config], check=True,
                   stdout=subprocess.DEVNULL)

    devices[0].start_daemon()
    bridge = devices[0].start("bridge")
    await asyncio.sleep(1)
    idle = anonymous_mb(bridge)
    own, queue, ack = await latency(devices[0], stream, client, arguments.samples)
    print(f"one job, median of {arguments.samples}: dropped {own:.1f} ms, through the queue {queue:.1f} ms "
          f"(+{queue - own:.1f} ms, of which {ack:.1f} ms until the server has stored the job)", flush=True)
    devices[0].stop()
    devices[0].start_daemon()
    print(f"daemon alone: {await alone(devices[0], arguments.jobs):.0f} jobs/s", flush=True)
    devices[0].stop()
    most = idle
    first = None
    for count in arguments.devices:
        used = devices[:count]
        for device in used:
            device.start_daemon()
        speed, peak, after, cost = await through_queue(used, server, stream, client, arguments.jobs, f"jobs-{count}")
        first = first or speed
        most = max(most, peak)
        print(f"{count} devices: {speed:.0f} jobs/s, {speed / first:.2f} times one; "
              f"private memory of a bridge up to {peak:.1f} MB, afterwards {after:.1f} MB; per job {cost[0]:.2f} ms of "
              f"the processor for the server, {cost[1]:.2f} ms for the bridges", flush=True)
        for device in used:
            device.stop()
    print(f"private memory of a bridge: idle {idle:.1f} MB, at most {most:.1f} MB")
    await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jetspool", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--devices", type=lambda text: [int(word) for word in text.split(",")], default=[1, 3])
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="jetspool-fleet."))
    try:
        with contextlib.ExitStack() as stack:
            asyncio.run(main(parser.parse_args(), scratch, stack))
    finally:
        shutil.rmtree(scratch)
