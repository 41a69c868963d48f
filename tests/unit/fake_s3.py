#!/usr/bin/python3
"""A small S3 server that misbehaves in a chosen way. Prints its port, serves until its stdin closes.

The bucket and the first part of the key choose what goes wrong (see HABITS); `n` in the table is how many requests of
one method and key were seen before. With an argument (a PEM file) it speaks TLS. Standard library only.
"""
import base64, email.utils, hashlib, http.server, re, socket, ssl, struct, sys, threading, time, urllib.parse
from xml.sax.saxutils import escape

objects, uploads, seen, lock = {}, {}, {}, threading.Lock()


def xml_error(code, more=""):
    return f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>as asked</Message>{more}</Error>'.encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *a):
        pass

    def date_time_string(self, timestamp=None):
        return email.utils.formatdate(self.clock(), usegmt=True)

    def clock(self):
        return time.time() + (3 * 3600 if getattr(self, "bucket", "") == "skewed" else 0)

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status, code, more="", **headers):
        self.answer(status, xml_error(code, more), **headers)

    def hang_up(self, reset=False):
        self.close_connection = True
        self.wfile.flush()
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def handle_one(self):
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        parts = urllib.parse.unquote(url.path).split("/", 2)
        self.bucket, self.key = parts[1], parts[2] if len(parts) > 2 else ""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with lock:
            what = (self.command, url.path, "uploadId" in self.query, self.query.get("partNumber"))
            self.n = seen.get(what, 0)
            seen[what] = self.n + 1
        habit = self.key.removeprefix("p/").split("/")[0]

        # what every S3 server checks
        if hashlib.sha256(self.body).hexdigest() != self.headers.get("x-amz-content-sha256"):
            return self.fail(400, "XAmzContentSHA256Mismatch")
        scope = re.match(r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/([\w-]+)/s3/aws4_request, SignedHeaders=([\w;-]+), "
                         r"Signature=[0-9a-f]{64}$", self.headers.get("Authorization", ""))
        if not scope or "host" not in scope[3] or "x-amz-date" not in scope[3]:
            return self.fail(403, "AccessDenied")
        stamp = email.utils.parsedate_to_datetime(
            time.strftime("%a, %d %b %Y %H:%M:%S GMT",
                          time.strptime(self.headers["x-amz-date"], "%Y%m%dT%H%M%SZ"))).timestamp()
        if abs(stamp - self.clock()) > 900:
            return self.fail(403, "RequestTimeTooSkewed")
        if self.bucket == "elsewhere" and scope[2] != "eu-central-1":
            return self.fail(400, "AuthorizationHeaderMalformed", "<Region>eu-central-1</Region>")
        if self.bucket == "moved" and scope[2] != "eu-west-3":
            return self.fail(301, "PermanentRedirect", x_amz_bucket_region="eu-west-3")
        if self.bucket == "token" and self.headers.get("x-amz-security-token") != "fresh":
            return self.fail(400, "ExpiredToken")
        if self.bucket == "denied":
            return self.fail(403, "AccessDenied")
        if self.bucket == "missing":
            return self.fail(404, "NoSuchBucket")
        if self.bucket == "full":
            return self.fail(507, "XMinioStorageFull")

        if habit == "slowdown" and self.n < 2:
            return self.fail(503, "SlowDown")
        if habit == "gateway" and self.n < 1:
            return self.answer(502, b"<html><body>Bad Gateway<br></body></html>")
        if habit == "timeout400" and self.n < 1:
            return self.fail(400, "RequestTimeout")
        if habit == "toomany" and self.n < 1:
            return self.fail(429, "TooManyRequests", Retry_After="1")
        if habit == "conflict409" and self.n < 1:
            return self.fail(409, "ConditionalRequestConflict")
        if habit == "stall" or (habit == "stallonce" and self.n < 1):
            time.sleep(3600)  # the process ends before
            return
        if habit == "hangup" and self.n < 1:
            return self.hang_up()
        getattr(self, "do_" + self.command + "_object" if self.key else "do_bucket")(habit)

    def do_PUT_object(self, habit):
        name = (self.bucket, self.key)
        etag = '"%s"' % hashlib.md5(self.body).hexdigest()
        if habit == "badetag":
            etag = '"%032x"' % (0xabc + self.n)
        if "partNumber" in self.query:
            with lock:
                if self.query["uploadId"] not in uploads:
                    return self.fail(404, "NoSuchUpload")
                uploads[self.query["uploadId"]][int(self.query["partNumber"])] = self.body
            return self.answer(200, ETag=etag)
        if self.headers.get("If-None-Match") == "*" and self.bucket == "refuses":
            return self.fail(501, "NotImplemented")
        match = self.headers.get("If-Match")
        with lock:
            there = objects.get(name)
            if match and self.bucket != "ignores" and (not there or match != '"%s"' % hashlib.md5(there[0]).hexdigest()):
                return self.fail(412 if there else 404, "PreconditionFailed" if there else "NoSuchKey")
            if self.headers.get("If-None-Match") == "*" and self.bucket != "ignores" and name in objects:
                return self.fail(412, "PreconditionFailed")
            objects[name] = (b"somebody else" if habit == "foe" else self.body, time.time())
        if habit in ("ambiguous", "foe") and self.n < 1 or habit == "cut" and self.n == 1:
            return self.hang_up()
        self.answer(200, ETag=etag)

    def do_POST_object(self, habit):
        if "uploads" in self.query:
            with lock:
                uid = "id-%d &<+" % len(uploads)
                uploads[uid] = {}
            return self.answer(200, f"<InitiateMultipartUploadResult><UploadId>{escape(uid)}</UploadId>"
                               "</InitiateMultipartUploadResult>".encode())
        with lock:
            parts = uploads.get(self.query["uploadId"])
            if parts is None:
                return self.fail(404, "NoSuchUpload")
            if habit == "complete200" and self.n < 2:
                return self.answer(200, xml_error("InternalError"))
            if habit == "completefatal":
                return self.answer(200, xml_error("AccessDenied"))
            etags = re.findall(r"<PartNumber>(\d+)</PartNumber><ETag>&quot;(\w+)&quot;</ETag>", self.body.decode())
            if [(int(n), e) for n, e in etags] != [(n, hashlib.md5(parts[n]).hexdigest()) for n in sorted(parts)]:
                return self.fail(400, "InvalidPart")
            objects[self.bucket, self.key] = (b"".join(parts[n] for n in sorted(parts)), time.time())
            objects[self.bucket, self.key, "etag"] = '"%s-%d"' % (hashlib.md5(b"".join(
                hashlib.md5(parts[n]).digest() for n in sorted(parts))).hexdigest(), len(parts))
            del uploads[self.query["uploadId"]]
        if habit == "completelost" and self.n < 1:
            return self.hang_up()
        self.answer(200, b"\n\n<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def do_GET_object(self, habit):
        with lock:
            data = objects.get((self.bucket, self.key), (None, 0))[0]
            etag = objects.get((self.bucket, self.key, "etag"))
        if data is None:
            return self.fail(404, "NoSuchKey")
        etag = etag or '"%s"' % hashlib.md5(data).hexdigest()
        if habit == "replaced":
            if self.n > 0 and self.headers.get("If-Match"):
                return self.fail(412, "PreconditionFailed")
        if habit == "replacedquietly":
            etag = '"%d"' % self.n
        rng = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
        status, extra = 200, {}
        if rng and habit != "ignoresrange":
            first, last = int(rng[1]), int(rng[2])
            if habit == "resume" and self.n > 0 and first == 0:
                return self.fail(400, "InvalidRequest")  # it has the beginning already
            status, extra = 206, {"Content_Range": f"bytes {first}-{last}/{len(data)}"}
            if habit == "wrongrange":
                extra = {"Content_Range": f"bytes {first + 1}-{last + 1}/{len(data)}"}
            if habit == "grown":
                extra = {"Content_Range": f"bytes {first}-{last}/{len(data) + 1}"}
            data = data[first:last + 1]
        if habit in ("resume", "short", "reset") and self.n < 1:
            self.send_response(status)
            for k, v in {"ETag": etag, "Content-Length": str(len(data)), **extra}.items():
                self.send_header(k.replace("_", "-"), v)
            self.end_headers()
            self.wfile.write(data[:len(data) // 2])
            return self.hang_up(habit == "reset")
        self.answer(status, data, ETag=etag, **extra)

    do_HEAD_object = do_GET_object

    def do_DELETE_object(self, habit):
        if "uploadId" in self.query:
            with lock:
                uploads.pop(self.query["uploadId"], None)
                if self.key in stale:
                    stale.remove(self.key)
            return self.answer(204)
        with lock:
            objects.pop((self.bucket, self.key), None)
        self.answer(204)

    def do_bucket(self, habit):
        if "delete" in self.query:
            return self.do_delete_objects()
        if "uploads" in self.query:
            with lock:
                items = "".join(f"<Upload><Key>{k}</Key><UploadId>old</UploadId><Initiated>"
                                f"{'2020-01-01T00:00:00.000Z' if 'old' in k else time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
                                "</Initiated></Upload>" for k in stale)
            return self.answer(200, f"<ListMultipartUploadsResult>{items}<IsTruncated>false</IsTruncated>"
                               "</ListMultipartUploadsResult>".encode())
        if self.bucket == "circles":
            return self.answer(200, b"<ListBucketResult><IsTruncated>true</IsTruncated>"
                               b"<NextContinuationToken>again</NextContinuationToken></ListBucketResult>")
        prefix, after = self.query.get("prefix", ""), self.query.get("start-after", "")
        with lock:
            if self.bucket == "stale":
                keys = {k: (b"", 0) for k in stale}
            else:
                keys = {k[1]: v for k, v in objects.items() if k[0] == self.bucket and len(k) == 2}
        keys = sorted((k, v) for k, v in keys.items() if k.startswith(prefix) and k > after)
        if self.bucket == "unsorted":
            keys.reverse()
        start = int(self.query.get("continuation-token", "0 ").split()[0])
        page = keys[start:start + 3]
        q = urllib.parse.quote_plus if self.query.get("encoding-type") == "url" else escape
        items = "".join(f"<Contents><Key>{q(k)}</Key><Size>{len(v[0])}</Size><LastModified>"
                        f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(v[1]))}.000Z</LastModified></Contents>"
                        for k, v in page)
        more = start + 3 < len(keys)
        token = f"<NextContinuationToken>{start + 3} +/=&amp;</NextContinuationToken>" if more else ""
        if "continuation-token" in self.query and not self.query["continuation-token"].endswith(" +/=&"):
            return self.fail(400, "InvalidArgument")
        enc = "<EncodingType>url</EncodingType>" if "encoding-type" in self.query else ""
        self.answer(200, f"<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>{items}{enc}"
                    f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}</ListBucketResult>".encode())

    def do_delete_objects(self):
        if self.bucket == "nobatch":
            return self.fail(501, "NotImplemented")
        if self.headers.get("Content-MD5") != base64.b64encode(hashlib.md5(self.body).digest()).decode():
            return self.fail(400, "BadDigest")
        errors = ""
        keys = re.findall("<Key>(.*?)</Key>", self.body.decode())
        for k in keys:
            k = k.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
            code = ""
            if k.endswith("/locked"):
                code = "AccessDenied"
            elif k.endswith("/flaky") and self.n < 1:
                code = "InternalError"
            elif k.endswith("/gone"):
                code = "NoSuchKey"
            if code:
                errors += f"<Error><Key>{escape(k)}</Key><Code>{code}</Code><Message>m</Message></Error>"
            else:
                with lock:
                    objects.pop((self.bucket, k), None)
        self.answer(200, f"<DeleteResult>{errors}</DeleteResult>".encode())

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one


stale = ["p/old/a", "p/new/b", "q/old/c"]
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
server.handle_error = lambda *a: None
if len(sys.argv) > 1:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1])
    server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.buffer.raw.read(1)
