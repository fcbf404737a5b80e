#!/usr/bin/env python3
"""Measures what a replica costs when it starts and when it is idle; `make figures` runs it.

Ten starts of the release build against a migrated database: the time from exec to the first answer
of /live and to the first 200 of /health, and the memory of the process once it is idle. Exits with 1
when a median is over its bound. Of the client, which a second argument names, the size and the time of
a start are told.
"""
import http.client
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

STARTS = 10
BOUNDS = {"exec to /live, ms": 50, "exec to /health, ms": 150, "idle memory, MB": 25}

# A process whose memory has not grown for this long is idle; the pool is full by then.
IDLE_SECONDS = 2


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def status(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def first_200(port, path, started):
    while status(port, path) != 200:
        if time.monotonic() - started > 10:
            sys.exit(f"{path} has not answered for 10 s")
        time.sleep(0.0005)
    return (time.monotonic() - started) * 1000


def memory(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = next(it for it in lines if it.startswith("VmRSS:")).split()[1]
    return int(kilobytes) / 1000


def one_start(program):
    port = free_port()
    environment = {
        "POSTGRES_DSN": os.environ["DATABASE_URL"],
        "API_HOST": "127.0.0.1",
        "API_PORT": str(port),
        "COORDINATION_API_KEYS": "a-key",
        "RUST_LOG": "warn",
    }
    started = time.monotonic()
    process = subprocess.Popen([program], env=environment)
    try:
        live = first_200(port, "/live", started)
        health = first_200(port, "/health", started)
        time.sleep(IDLE_SECONDS)
        return live, health, memory(process.pid)
    finally:
        process.terminate()
        process.wait(10)


def client_start(program):
    started = time.monotonic()
    subprocess.run([program, "--version"], check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic() - started) * 1000


def client_figures(program):
    client_start(program)
    starts = [client_start(program) for _ in range(STARTS)]
    figures = min(starts), statistics.median(starts), max(starts)
    print(f"{'coord --version, ms':24} " + " ".join(f"{it:8.1f}" for it in figures))
    print(f"{'size of coord, MB':24} {os.path.getsize(program) / 1e6:8.1f}")


def main():
    if len(sys.argv) not in (2, 3) or "DATABASE_URL" not in os.environ:
        sys.exit("Usage: DATABASE_URL=… benches/figures.py PROGRAM [CLIENT], on a migrated database")
    one_start(sys.argv[1])  # The first one finds cold caches.
    measured = zip(*(one_start(sys.argv[1]) for _ in range(STARTS)))
    is_over = False
    print(f"{'':24} {'minimum':>8} {'median':>8} {'maximum':>8} {'bound':>8}")
    for (name, bound), values in zip(BOUNDS.items(), measured):
        median = statistics.median(values)
        is_over |= median > bound
        print(f"{name:24} {min(values):8.1f} {median:8.1f} {max(values):8.1f} {bound:8}")
    print(f"{'size of the program, MB':24} {os.path.getsize(sys.argv[1]) / 1e6:8.1f}")
    if len(sys.argv) == 3:
        client_figures(sys.argv[2])
    sys.exit(1 if is_over else 0)


main()
