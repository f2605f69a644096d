"""A TCP proxy of our own: passes bytes on until it is told to hurt them.

Owns the sockets of one link and what happens to their bytes: delay, throttle, cut, half-close, silence (replies are
dropped), refusal. Counts what it really did to live connections. Does not know what the bytes mean.
"""

import collections
import contextlib
import socket
import struct
import threading
import time

CHUNK = 64 << 10


class Proxy:
    """Listens on a port of loopback for connections to `target`, another one."""

    def __init__(self, target: int):
        self.target = target
        self.lock = threading.Lock()
        self.links: set[Link] = set()
        self.did: collections.Counter = collections.Counter()  # what took effect, by kind
        self.delay = 0.0
        self.rate = 0  # bytes a second and direction, 0: as fast as it goes
        self.silent = False
        self.refusing = False
        self.hurt_at = float("-inf")  # when something was last done to it
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            if self.refusing:
                self.did["refused"] += 1
                reset(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                # The other side is gone; so it shall look.
                self.did["unreachable"] += 1
                reset(client)
                continue
            server.settimeout(None)
            link = Link(self, client, server)
            with self.lock:
                self.links.add(link)
            link.start()

    def live(self) -> int:
        with self.lock:
            return len(self.links)

    def cut(self):
        """Resets every connection."""
        with self.lock:
            links = list(self.links)
        for link in links:
            link.cut()
            self.did["cut"] += 1

    def half_close(self):
        """Ends the way back of every connection: the client reads an end, the server reads on."""
        with self.lock:
            links = list(self.links)
        for link in links:
            link.half_close()
            self.did["half_close"] += 1

    def heal(self):
        self.delay, self.rate, self.silent, self.refusing = 0.0, 0, False, False

    def close(self):
        self.socket.close()
        self.cut()


class Link:
    """One connection and its two directions."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket):
        self.proxy, self.client, self.server = proxy, client, server
        self.open = 2
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self):
        for source, sink, reply in ((self.client, self.server, False), (self.server, self.client, True)):
            threading.Thread(target=self.pump, args=(source, sink, reply), daemon=True).start()

    def pump(self, source: socket.socket, sink: socket.socket, reply: bool):
        proxy = self.proxy
        try:
            while data := source.recv(CHUNK):
                if proxy.delay:
                    time.sleep(proxy.delay)
                    proxy.did["delay"] += 1
                if proxy.silent and reply:
                    proxy.did["silence"] += 1
                    continue
                if proxy.rate:
                    proxy.did["throttle"] += 1
                    while data and proxy.rate:
                        # A tenth of a second's worth at a time.
                        step = max(1, proxy.rate // 10)
                        sink.sendall(data[:step])
                        data = data[step:]
                        time.sleep(0.1)
                if data:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.cut()
        with proxy.lock:
            self.open -= 1
            over = self.open == 0
            if over:
                proxy.links.discard(self)
        if over:
            for end in (self.client, self.server):
                end.close()

    def cut(self):
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def half_close(self):
        with contextlib.suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)


def reset(end: socket.socket):
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
