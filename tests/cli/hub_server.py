"""A small Hugging Face Hub on this machine: repositories in memory, and a second port that plays the storage to
which large files redirect. Every request is kept for tests to look at, and faults can be put in the way."""

import hashlib
import json
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

LARGE = 100_000  # bytes from which a file is stored as LFS


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Repository:
    def __init__(self, files, token=None, gated=False):
        self.token, self.gated = token, gated  # token: whoever asks must have it
        self.commits, self.refs = {}, {}
        self.claimed = {}  # sizes that are told instead of the true ones
        self.push(files)

    def push(self, files, ref="main"):
        names = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in files.items()}, sort_keys=True)
        commit = hashlib.sha1(names.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[ref] = commit
        return commit


class Fault:
    """Happens to the next `count` requests to `port` ("hub" or "cdn") whose path contains `path`."""

    def __init__(self, kind, path="", port="cdn", count=1, method=None):
        self.kind, self.path, self.port, self.count, self.method = kind, path, port, count, method


class HubServer:
    def __init__(self, certificate=None):
        """certificate: (certificate file, key file) for HTTPS at the Hub's port; the storage stays plain."""
        self.repositories, self.requests, self.faults = {}, [], []
        self.tokens = {"hf_good"}
        self.blobs = {}
        self.lock = threading.Condition()
        self.sent = 0  # bytes of large files
        self.limit = None  # after so many of them, sending stops until the limit is raised
        self.ranges = True
        self.connections = 0
        self.scheme = "https" if certificate else "http"
        self.hub = self._start("hub")
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.hub.socket = context.wrap_socket(self.hub.socket, server_side=True)
        self.cdn = self._start("cdn")

    def _start(self, port):
        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def process_request(inner, request, address):
                self.connections += 1
                super().process_request(request, address)

            def handle_error(inner, request, address):
                pass  # clients are killed here

        handler = type("Handler", (_Handler,), {"state": self, "port": port})
        server = Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.hub.server_address[1]}"

    @property
    def cdn_url(self):  # another name for this machine: another host
        return f"http://localhost:{self.cdn.server_address[1]}"

    def close(self):
        self.raise_limit(None)
        for server in (self.hub, self.cdn):
            server.shutdown()
            server.server_close()

    def add(self, name, files, **options):
        self.repositories[name] = Repository(files, **options)
        return self.repositories[name]

    def raise_limit(self, limit):
        with self.lock:
            self.limit = limit
            self.lock.notify_all()

    def wait_until_stopped(self, timeout=20):
        """Until the limit is reached. False when that did not happen."""
        with self.lock:
            return self.lock.wait_for(lambda: self.limit is not None and self.sent >= self.limit, timeout)

    def take_fault(self, port, method, path):
        with self.lock:
            for fault in self.faults:
                if fault.count and fault.port == port and fault.path in path and fault.method in (None, method):
                    fault.count -= 1
                    return fault.kind
        return None

    def of(self, port, method=None):
        return [r for r in self.requests if r["port"] == port and method in (None, r["method"])]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state = port = None

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        headers = {k.lower(): v for k, v in self.headers.items()}
        record = {"port": self.port, "method": self.command, "path": self.path, "headers": headers}
        with self.state.lock:
            self.state.requests.append(record)
        fault = self.state.take_fault(self.port, self.command, self.path)
        if fault and fault.isdigit():
            extra = {"416": {"Content-Range": "bytes */1"}, "429": {"Retry-After": "1"}}.get(fault, {})
            return self.reply(int(fault), b"no", extra)
        if self.port == "cdn":
            return self.storage(fault, headers)
        path = unquote(urlsplit(self.path).path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+?)/(.+)", path)
        cached = re.fullmatch(r"/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)", path)
        if cached:
            file, api = cached, None
        if not api and not file:
            return self.reply(404)
        name = (api or file).group(1)
        repository = self.state.repositories.get(name)
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.state.tokens:
            return self.reply(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        if repository is None or (repository.token and token != repository.token and not repository.gated):
            return self.reply(404 if token else 401, headers={"X-Error-Code": "RepoNotFound"})
        if repository.gated and (file or api.group(2) != "revision") and token != repository.token:
            return self.reply(403 if token else 401, headers={"X-Error-Code": "GatedRepo"})
        revision = api.group(3) if api else file.group(2)
        revision = revision or "main"
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return self.reply(404, headers={"X-Error-Code": "RevisionNotFound"})
        if api:
            return self.listing(name, commit, repository, tree=api.group(2) == "tree")
        self.resolve(commit, repository, file.group(3), fault)

    def listing(self, name, commit, repository, tree):
        def entry(path, data):
            e = {"size": repository.claimed.get(path, len(data)), "oid" if tree else "blobId": git_sha1(data)}
            e.update({"type": "file", "path": path} if tree else {"rfilename": path})
            if len(data) >= LARGE:
                e["lfs"] = {("oid" if tree else "sha256"): hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            return e

        entries = [entry(path, data) for path, data in repository.commits[commit].items()]
        body = entries if tree else {"id": name, "modelId": name, "sha": commit, "siblings": entries, "private": False,
                                     "tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False}
        self.reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def resolve(self, commit, repository, path, fault):
        data = repository.commits[commit].get(path)
        if data is None:
            return self.reply(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        if len(data) < LARGE and not self.path.startswith("/api/"):  # as the Hub does: once more within its host
            to = re.sub(r"^/([^/]+/[^/]+)/resolve/[^/]+/", rf"/\1/{commit}/", self.path)
            return self.reply(307, headers={"Location": "/api/resolve-cache/models" + to, "X-Repo-Commit": commit})
        if len(data) < LARGE:
            return self.reply(200, data, {"ETag": f'"{git_sha1(data)}"', "X-Repo-Commit": commit})
        digest = hashlib.sha256(data).hexdigest()
        self.state.blobs[digest] = data
        to = self.state.url + "/elsewhere" if fault == "lost" else f"{self.state.cdn_url}/{digest}?name={quote(path)}"
        self.reply(302, b"", {"Location": to, "X-Repo-Commit": commit, "X-Linked-Etag": f'"{digest}"',
                              "X-Linked-Size": str(repository.claimed.get(path, len(data))), "ETag": f'"{git_sha1(data)}-pointer"'})

    def storage(self, fault, headers):
        digest = urlsplit(self.path).path.lstrip("/")
        data = self.state.blobs.get(digest)
        if data is None:
            return self.reply(404)
        etag, first, last, status = f'"{digest[:16]}-1"', 0, len(data) - 1, 200
        if fault == "other version":
            etag = '"other-2"'
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
        if wanted and self.state.ranges and headers.get("if-range", etag) == etag:
            first, last, status = int(wanted[1]), int(wanted[2] or last), 206
            if first >= len(data):
                return self.reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        body = data[first : last + 1]
        if fault == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            body = body[: len(body) // 2]
        for begin in range(0, len(body), 1 << 16):
            piece = body[begin : begin + (1 << 16)]
            with self.state.lock:
                self.state.lock.wait_for(lambda: self.state.limit is None or self.state.sent < self.state.limit, 30)
                self.state.sent += len(piece)
                self.state.lock.notify_all()
            self.wfile.write(piece)
            if fault == "stall":
                time.sleep(4)
        if fault == "cut":
            self.wfile.flush()
            self.close_connection = True

    def reply(self, status, body=b"", headers={}):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
