"""Web servers that take alerts, as a scenario wants them: with TLS, slow to death, refusing, or sending elsewhere."""
import http.server
import json
import os
import ssl
import threading

CERT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "unit", "fake_s3.pem")


class Hook:
    """Answers each POST with the next of codes, the last one for ever; "hang": never. What came is in posts. 400 is the answer to
    a body that is no JSON in UTF-8, and to those of the kind refuse; 500 to those of the kind fail. What was taken is in taken."""

    def __init__(self, *codes, tls=False, location=None, refuse=None, fail=None):
        self.codes, self.location, self.fail = list(codes) or [200], location, fail
        self.posts = []  # (path, headers, body)
        self.taken = []  # objects
        self.over = threading.Event()
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posts.append((self.path, dict(self.headers), body))
                code = hook.codes.pop(0) if len(hook.codes) > 1 else hook.codes[0]
                try:
                    o = json.loads(body.decode("utf-8"))
                    if o["kind"] in (refuse, hook.fail):
                        code = 400 if o["kind"] == refuse else 500
                    elif code == 200:
                        hook.taken.append(o)
                except ValueError:
                    code = 400
                if code == "hang":
                    hook.over.wait()
                    self.close_connection = True
                    return
                said = b"no such hook" if code >= 300 else b""
                self.send_response(code)
                if hook.location:
                    self.send_header("Location", hook.location)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERT)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.base = "%s://127.0.0.1:%d" % ("https" if tls else "http", self.server.server_port)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    def told(self):
        return [json.loads(body) for _, _, body in list(self.posts)]

    def events(self, kind):
        return [o["event"] for o in self.told() if o["kind"] == kind]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
