"""The S3 server of the campaign: moto behind faults, a process of its own.

    python -m campaign.s3 PORT BUCKET         serves until it is killed; everything is in memory

Owns how requests fail: before the effect, after it (the reply is lost), late (the effect comes after the client has
given up), slowly, with 503, or with 403. Owns that changes of one key happen one at a time: moto looks for a key and writes it in
two steps. Owns how fast it is: as fast as it goes, or at a pace. Does not own when that happens: `POST /_campaign/faults` sets shares of
requests by kind, `POST /_campaign/pace` seconds a request and bytes a second of all of them, `GET /_campaign/counts` says what took
effect. Requests that carry the header `x-campaign: auditor` meet no fault and keep no pace.
"""

import collections
import contextlib
import io
import json
import logging
import random
import select
import socket
import sys
import threading
import time

LATE = (1.0, 12.0)  # seconds after which a late effect comes
SLOW = (0.5, 6.0)
KINDS = ("before", "after", "late", "slow", "refused", "denied", "unsaid")


class Pace:
    """How fast the store is. All bytes, in both directions, go through one pipe; requests take turns, a piece each."""

    PIECE = 16 << 10

    def __init__(self):
        self.lock = threading.Lock()
        self.set({})

    def set(self, asked: dict):
        with self.lock:
            self.seconds = asked.get("seconds", 0.0)  # that each request takes
            self.rate = asked.get("rate", 0.0)  # bytes a second, 0: as fast as it goes
            self.free_at = 0.0

    def keep(self, size: int, seconds: float, connection: socket.socket | None = None):
        """Returns when so many bytes have gone through; with an error once the client has hung up."""
        time.sleep(seconds)
        # A piece begins when the one before it was through, not when this thread woke up after that: so the pipe is as fast as it says.
        through = time.monotonic()
        while size > 0:
            if connection is not None and has_hung_up(connection):
                raise ConnectionAbortedError("the client has given up")
            with self.lock:
                if not self.rate:
                    return
                through = self.free_at = max(through, self.free_at) + min(size, self.PIECE) / self.rate
            time.sleep(max(0.0, through - time.monotonic()))
            size -= self.PIECE


def has_hung_up(connection: socket.socket) -> bool:
    """Whether the other side has ended its way, whatever of it is still unread."""
    look = select.poll()
    look.register(connection, select.POLLRDHUP)
    return bool(look.poll(0))


class Faults:
    """A WSGI application around moto's."""

    def __init__(self, application, seed: str):
        self.application = application
        self.rng = random.Random(seed)
        self.lock = threading.Lock()
        self.keys: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)
        self.shares: dict[str, float] = {}
        self.counts: collections.Counter = collections.Counter()
        self.pace = Pace()

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if path.startswith("/_campaign/"):
            return self.talk(path, environ, start_response)
        if environ.get("HTTP_X_CAMPAIGN"):
            return self.serve(environ, start_response)
        kind = self.draw()
        if kind == "unsaid":
            # Of log entries only: most requests read, and what commits would seldom be struck.
            kind = "after" if is_entry(environ) else None
        if kind is None:
            return self.paced(environ, start_response)
        return getattr(self, kind)(environ, start_response)

    def draw(self) -> str | None:
        with self.lock:
            point = self.rng.random()
        for kind, share in self.shares.items():
            if point < share:
                return kind
            point -= share
        return None

    def talk(self, path, environ, start_response):
        # The body ends by its length, not by the connection's end.
        shares = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or "{}")
        with self.lock:
            if path.endswith("/faults"):
                self.shares = {kind: share for kind, share in shares.items() if kind in KINDS}
            if path.endswith("/pace"):
                self.pace.set(shares)
            answer = json.dumps(self.counts).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]

    def serve(self, environ, start_response):
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self.application(environ, start_response)
        with self.lock:
            key = self.keys[environ["PATH_INFO"]]
        with key:
            return list(self.application(environ, start_response))

    def paced(self, environ, start_response):
        """What comes in arrives before the effect, what goes out leaves after it."""
        size, connection = int(environ.get("CONTENT_LENGTH") or 0), environ.get("werkzeug.socket")
        self.pace.keep(size, self.pace.seconds, connection)
        reply = list(self.serve(environ, start_response))
        out = sum(map(len, reply))
        self.pace.keep(out, 0, connection)
        with self.lock:
            self.counts["bytes in"] += size
            self.counts["bytes out"] += out
            self.counts["requests"] += 1
        return reply

    def before(self, environ, start_response):
        self.count("before", environ)
        return self.hang_up(environ)

    def refused(self, environ, start_response):
        self.count("refused", environ)
        return self.error(start_response, "503 Slow Down", "SlowDown", "Please reduce your request rate.")

    def denied(self, environ, start_response):
        self.count("denied", environ)
        return self.error(start_response, "403 Forbidden", "ExpiredToken", "The provided token has expired.")

    def error(self, start_response, status: str, code: str, message: str):
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def slow(self, environ, start_response):
        time.sleep(self.between(*SLOW))
        self.count("slow", environ)
        return self.serve(environ, start_response)

    def after(self, environ, start_response):
        status = self.effect(environ)
        self.count("after", environ, status)
        return self.hang_up(environ)

    def late(self, environ, start_response):
        # The request is kept whole; the client is told nothing, and goes on before it takes effect.
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        kept = {key: value for key, value in environ.items() if not key.startswith("werkzeug.")}
        kept["wsgi.input"] = io.BytesIO(body)
        kept.pop("wsgi.input_terminated", None)

        def land():
            time.sleep(self.between(*LATE))
            self.count("late", environ, self.effect(kept))

        threading.Thread(target=land, daemon=True).start()
        return self.hang_up(environ)

    def effect(self, environ) -> int:
        """Does what is asked and returns the status that the client will not see."""
        told: list[str] = []

        def remember(status, headers, exc_info=None):
            told.append(status)
            return lambda data: None

        list(self.serve(environ, remember))
        return int(told[0].split()[0])

    def count(self, kind: str, environ, status: int | None = None):
        """By kind; and apart, log entries that landed although the client was told nothing: ambiguous commits."""
        method = environ["REQUEST_METHOD"]
        entry = is_entry(environ)
        with self.lock:
            self.counts[kind] += 1
            self.counts[f"{kind} {method}"] += 1
            if entry and status == 200:
                self.counts["ambiguous"] += 1
                self.counts[f"ambiguous {kind}"] += 1
            if entry and kind == "late" and status == 412:
                self.counts["late but taken"] += 1

    def between(self, least: float, most: float) -> float:
        with self.lock:
            return self.rng.uniform(least, most)

    def hang_up(self, environ):
        """The connection ends without a reply."""
        with contextlib.suppress(OSError, KeyError):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError("the campaign lost this reply")


def is_entry(environ) -> bool:
    """Whether this puts a version of a table."""
    path = environ["PATH_INFO"]
    return environ["REQUEST_METHOD"] == "PUT" and "/_delta_log/" in path and path.endswith(".json")


def main():
    port, bucket, seed = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.disable(logging.CRITICAL)

    class Quiet(WSGIRequestHandler):
        def log(self, *_):
            pass

    faults = Faults(DomainDispatcherApplication(create_backend_app), f"s3 {seed}")
    server = make_server("127.0.0.1", port, faults, threaded=True, request_handler=Quiet)
    import boto3

    threading.Thread(target=server.serve_forever).start()
    boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    ).create_bucket(Bucket=bucket)
    print("ready", flush=True)


if __name__ == "__main__":
    main()
