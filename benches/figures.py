#!/usr/bin/env python3
"""Measures start-up time and idle memory of a replica; `make figures` runs this script.

Starts the release build ten times against a migrated database, and measures the time from exec to the
first 200 of /live and of /health, and the memory of the idle process. With the client as the second
argument, also measures its size and start-up time. Exits with 1 if a median exceeds its bound.
"""
import http.client
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

STARTS = 10
BOUNDS = {
    "exec to /live, ms": 50,
    "exec to /health, ms": 150,
    "idle memory, MB": 25,
    "MCP tools/list, ms": 5,
    "a lock's status, ms": 5,
}
CLIENT_BOUNDS = {"coord --version, ms": 10, "size of coord, MB": 8}
REQUESTS = 200

# The wait before memory is measured. By then the connection pool is full and the process is idle.
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
            sys.exit(f"{path} did not answer with 200 within 10 s")
        time.sleep(0.0005)
    return (time.monotonic() - started) * 1000


def median_time(port, method, path, body=None):
    headers = {
        "X-API-Key": "a-key",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    # Without it, Nagle's algorithm delays the second packet of a request until the first is acknowledged.
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times = []
    for _ in range(REQUESTS):
        started = time.monotonic()
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            sys.exit(f"{path} answered {response.status}")
        times.append((time.monotonic() - started) * 1000)
    connection.close()
    return statistics.median(times)


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
        idle = memory(process.pid)
        message = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        tools = median_time(port, "POST", "/mcp", message)
        lock = median_time(port, "GET", "/locks/status/src/main.rs")
        return live, health, idle, tools, lock
    finally:
        process.terminate()
        process.wait(10)


def client_start(program):
    started = time.monotonic()
    subprocess.run([program, "--version"], check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic() - started) * 1000


def report(bounds, measured):
    """Prints the values of each figure. Returns whether any median exceeds its bound."""
    is_over = False
    for (name, bound), values in zip(bounds.items(), measured):
        median = statistics.median(values)
        is_over |= median > bound
        print(f"{name:24} {min(values):8.1f} {median:8.1f} {max(values):8.1f} {bound:8}")
    return is_over


def main():
    if len(sys.argv) not in (2, 3) or "DATABASE_URL" not in os.environ:
        sys.exit("Usage: DATABASE_URL=… benches/figures.py PROGRAM [CLIENT], on a migrated database")
    program, *client = sys.argv[1:]
    one_start(program)  # warms the caches
    print(f"{'':24} {'minimum':>8} {'median':>8} {'maximum':>8} {'bound':>8}")
    is_over = report(BOUNDS, zip(*(one_start(program) for _ in range(STARTS))))
    print(f"{'size of the program, MB':24} {os.path.getsize(program) / 1e6:8.1f}")
    for it in client:
        client_start(it)
        starts = [client_start(it) for _ in range(STARTS)]
        is_over |= report(CLIENT_BOUNDS, [starts, [os.path.getsize(it) / 1e6]])
    sys.exit(1 if is_over else 0)


main()
