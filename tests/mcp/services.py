"""Starts what is checked, and what stands before it."""

import contextlib
import http.client
import http.server
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

# The key of an agent that may do everything, and one of which less is known.
KEY = "check-mcp-boss"
OTHER_KEY = "check-mcp-other"

KEYS = {
    "COORDINATION_API_KEYS": f"{KEY},{OTHER_KEY}",
    "COORDINATION_API_KEY_IDENTITIES": json.dumps(
        {
            KEY: {"agent_id": "boss", "agent_type": "strands", "profile": "strands_orchestrator"},
            OTHER_KEY: {"agent_id": "other", "agent_type": "codex"},
        }
    ),
}

# Seconds that a program may take until it answers; a first start of `local` makes a database.
PATIENCE = 60

# What concerns one connection and not what is said through it.
HOP = {"connection", "keep-alive", "transfer-encoding"}


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *about):
        # Clients may leave when they have what they want.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*about)


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def program(words, variables, port, cwd=None):
    """A program that serves on a port of loopback, until it is no longer needed."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "PG_BIN_DIR") if name in os.environ}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            words,
            env={"RUST_LOG": "warn"} | kept | variables,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_live(child, port)
            yield f"http://127.0.0.1:{port}"
            if child.poll() is not None:
                raise SystemExit(f"{words[0]} ended while it was used.")
        except BaseException:
            log.seek(0)
            said = log.read().decode(errors="replace").splitlines()[-20:]
            if said:
                print(f"{os.path.basename(words[0])} said last:", *said, sep="\n", flush=True)
            raise
        finally:
            child.terminate()
            child.wait()


def wait_until_live(child, port):
    end = time.monotonic() + PATIENCE
    while child.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/live", timeout=5).close()
            return
        time.sleep(0.05)
    raise SystemExit(f"{child.args[0]} does not answer.")


@contextlib.contextmanager
def coordinator(path, database):
    """The server."""
    port = free_port()
    address = {"API_HOST": "127.0.0.1", "API_PORT": str(port)}
    with program([path], KEYS | address | {"POSTGRES_DSN": database}, port) as url:
        yield url


@contextlib.contextmanager
def local(path):
    """The service of a developer's machine, with a database of its own."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = [path, "--db", "embedded", "--port", str(port)]
        with program(words, KEYS, port, cwd=folder) as url:
            yield url


@contextlib.contextmanager
def function(gateway, path, database):
    """The Lambda function at its URL. It needs a database with all migrations."""
    port = free_port()
    with program([gateway, path, str(port)], KEYS | {"POSTGRES_DSN": database}, port) as url:
        yield url


@contextlib.contextmanager
def proxy(*targets, headers=()):
    """Passes each request on to the next target in turn, with these headers in addition; yields its
    address and, for each target, how many requests it got."""
    ports = [int(target.rpartition(":")[2]) for target in targets]
    counts = [0] * len(ports)
    turns = itertools.cycle(range(len(ports)))
    turn = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def pass_on(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            # A client asks for a stream of events on the side, at no certain time.
            chosen = 0
            if self.command != "GET":
                with turn:
                    chosen = next(turns)
                    counts[chosen] += 1
            connection = http.client.HTTPConnection("127.0.0.1", ports[chosen])
            try:
                connection.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in [*self.headers.items(), *headers]:
                    if name.lower() not in HOP:
                        connection.putheader(name, value)
                connection.endheaders(body)
                response = connection.getresponse()
                answer = response.read()
                self.send_response_only(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in HOP | {"content-length"}:
                        self.send_header(name, value)
                if response.status not in (204, 304):
                    self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            finally:
                connection.close()

        do_GET = do_POST = do_DELETE = do_PUT = do_OPTIONS = do_HEAD = pass_on

        def log_message(self, *_):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", counts
    finally:
        server.shutdown()
        server.server_close()
