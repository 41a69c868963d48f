"""A TCP proxy that a scenario puts before a host's port, to make the network bad: it delays, trickles, stalls, drops one
direction, changes bytes, cuts and resets."""
import random
import select
import socket
import struct
import threading
import time

MODES = ("pass", "delay", "trickle", "stall", "one-way", "other-way", "half-open", "corrupt", "cut", "reset")


class Proxy:
    """Listens on 127.0.0.1:port and connects through to `to` (address and port). set() changes what happens to every connection, at
    once; a connection that was half-open or corrupted stays so until its end."""

    def __init__(self, to, seed=0):
        self.to, self.mode, self.rnd, self.stop = to, "pass", random.Random(seed), False
        self.pairs, self.mu = [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.address = "127.0.0.1:%d" % self.port
        self.bytes = 0
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def set(self, mode):
        with self.mu:
            self.mode = mode
            pairs = list(self.pairs) if mode in ("cut", "reset") else []
        for pair in pairs:
            self.hang_up(pair, mode == "reset")

    def hang_up(self, pair, reset=False):
        for s in pair:
            try:
                if reset:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.close()
                else:
                    s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def accept(self):
        while not self.stop:
            try:
                if not select.select([self.listener], [], [], 0.2)[0]:
                    continue
                a = self.listener.accept()[0]
            except (OSError, ValueError):
                return
            try:
                if self.mode in ("cut", "reset"):
                    raise OSError("cut")
                b = socket.create_connection(self.to, timeout=5)
                for s in (a, b):
                    s.settimeout(None)
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                a.close()
                continue
            pair, state = (a, b), {"open": 2, "dead": False}
            with self.mu:
                self.pairs.append(pair)
            for src, dst, up in ((a, b, True), (b, a, False)):
                threading.Thread(target=self.carry, args=(pair, state, src, dst, up), daemon=True).start()

    def carry(self, pair, state, src, dst, up):
        swallow = False
        try:
            while not self.stop:
                if self.mode == "stall" or (self.mode == "half-open" and not state["dead"]):
                    if self.mode == "half-open":  # its peer is gone, and it is not told
                        state["dead"] = True
                        pair[1].shutdown(socket.SHUT_RDWR)
                    time.sleep(0.02)
                    continue
                if not select.select([src], [], [], 0.05)[0]:
                    continue
                if self.mode == "stall":
                    continue
                data = src.recv(65536)
                if state["dead"]:
                    if not data:
                        if src is pair[0]:
                            break
                        time.sleep(0.2)
                    continue  # into nowhere
                if not data:
                    break
                mode = self.mode
                if mode == "one-way" and up or mode == "other-way" and not up:
                    swallow = True  # bytes are missing: only a new connection can be right again
                if swallow:
                    continue
                if mode == "delay":
                    time.sleep(self.rnd.uniform(0.01, 0.2))
                elif mode == "corrupt" and self.rnd.random() < 0.3:
                    data = bytearray(data)
                    data[self.rnd.randrange(len(data))] ^= 1 << self.rnd.randrange(8)
                if mode != "trickle":
                    dst.sendall(data)
                    self.bytes += len(data)
                    continue
                while data and self.mode == "trickle" and not self.stop:
                    n = self.rnd.randrange(1, 40)
                    dst.sendall(data[:n])
                    data = data[n:]
                    time.sleep(0.001)
                dst.sendall(data)
        except (OSError, ValueError):
            pass
        if not state["dead"] or src is pair[0]:
            self.hang_up(pair)
        with self.mu:
            state["open"] -= 1
            if state["open"] == 0:
                for s in pair:
                    s.close()
                self.pairs.remove(pair)

    def close(self):
        self.stop = True
        self.listener.close()
        with self.mu:
            pairs = list(self.pairs)
        for p in pairs:
            self.hang_up(p)
