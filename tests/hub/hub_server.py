"""A Hugging Face-compatible hub on this machine, for tests: the hub itself, and a second server with another name to which
large files are redirected by signed addresses. Both keep a list of what they were asked. Faults are switched on by name.

    hub_server.py FOLDER        serves FOLDER/models/NAME/… and FOLDER/datasets/NAME/… until it is stopped
"""
import hashlib
import http.server
import json
import os
import ssl
import sys
import threading
import time
import urllib.parse

LARGE = 100_000  # bytes from which a file is kept elsewhere
PIECE = 32768


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repository:
    """One commit of a folder's files; its branch is main, its tag v1."""

    def __init__(self, kind, name, folder):
        self.kind, self.name = kind, name
        self.files, self.card = {}, {}
        for top, _, names in os.walk(folder):
            for file in names:
                path = os.path.join(top, file)
                with open(path, "rb") as opened:
                    self.files[os.path.relpath(path, folder)] = opened.read()
        if "card.json" in self.files:
            self.card = json.loads(self.files.pop("card.json"))
        self.files = dict(sorted(self.files.items()))
        self.commit = hashlib.sha1(repr([(p, git_hash(c)) for p, c in self.files.items()]).encode()).hexdigest()

    def has(self, revision):
        return revision in ("main", "v1", self.commit)

    def etag(self, path):
        content = self.files[path]
        return hashlib.sha256(content).hexdigest() if len(content) >= LARGE else git_hash(content)

    def entry(self, path):
        content = self.files[path]
        entry = {"type": "file", "oid": git_hash(content), "size": len(content), "path": path}
        if len(content) >= LARGE:
            entry["lfs"] = {"oid": self.etag(path), "size": len(content), "pointerSize": 134}
        return entry

    def info(self):
        return {"id": self.name, "sha": self.commit, "siblings": [{"rfilename": path} for path in self.files],
                "cardData": self.card, "private": False, "gated": False, "tags": [], "downloads": 0}


class Hub:
    """FAULTS, by name, with what they hold:
    cut N            an answer with content breaks after N bytes, `times` times
    stall            as cut, but nothing more comes and the connection stays
    status N         content is answered with this status, `times` times; with `retry_after` in the header of that name
    limit N          questions about a repository are one too many for N seconds, `times` times
    all              whole files are sent where ranges are asked for
    expire N         a signed address is good for N requests
    corrupt          a byte of the content is another one, `times` times
    length           Content-Length says ten bytes too many, `times` times
    loop             the hub redirects to itself
    range            Content-Range is of other bytes, `times` times
    slow             seconds between pieces of content
    on PATH          only content of this file fails
    refuse           the list of files is refused with this text and an escape in X-Error-Message
    no_sizes         the hub does not say how long files elsewhere are
    no_head          the other server does not answer HEAD
    gated, no_tree, page (entries of a page of the list), tree (a list to answer in place of the true one)
    """

    def __init__(self, folder, certificate=None, **faults):
        self.repositories, self.certificate = {}, certificate
        for kind in ("models", "datasets"):
            for top, folders, names in os.walk(os.path.join(folder, kind)):
                name = os.path.relpath(top, os.path.join(folder, kind))
                if names or name.count("/") == 1:
                    self.repositories[kind, name] = Repository(kind, name, top)
                    folders.clear()
        self.faults, self.lock = faults, threading.Lock()
        self.asked = []      # {"server", "method", "path", "range", "token"}
        self.sent = {}       # bytes of content by path
        self.signed = {}     # uses of a signature
        self.signatures = 0
        self.servers = [self.serve("hub"), self.serve("elsewhere")]
        # Two names of one machine are two origins.
        scheme = "https" if certificate else "http"
        self.endpoint = "%s://127.0.0.1:%d" % (scheme, self.servers[0].server_port)
        self.elsewhere = "%s://localhost:%d" % (scheme, self.servers[1].server_port)

    def serve(self, name):
        handler = type(name, (Handler,), {"hub": self, "role": name})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.handle_error = lambda *_: None  # who asks may be killed
        server.daemon_threads = True
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def stop(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def fault(self, name, path=None):
        """The fault's value, if it is on (for `path`); those with a number of times are used up."""
        with self.lock:
            if name not in self.faults or path not in (None, self.faults.get("on", path)):
                return None
            times = self.faults.get("times")
            if times is not None and name in ("cut", "stall", "status", "limit", "corrupt", "length", "range"):
                if times == 0:
                    return None
                self.faults["times"] = times - 1
            return self.faults[name]

    def sign(self):
        with self.lock:
            self.signatures += 1
            self.signed[str(self.signatures)] = 0
            return str(self.signatures)

    def use(self, signature):
        """Whether a signature is good for one more request."""
        with self.lock:
            if signature not in self.signed:
                return False
            self.signed[signature] += 1
            return self.signed[signature] <= self.faults.get("expire", 1 << 30)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = role = None

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        self.url = urllib.parse.urlsplit(self.path)
        with self.hub.lock:
            self.hub.asked.append({"server": self.role, "method": self.command, "path": urllib.parse.unquote(self.url.path),
                                   "range": self.headers.get("Range"), "token": self.headers.get("Authorization")})
        try:
            if self.role == "elsewhere":
                self.answer_elsewhere()
            elif self.url.path.startswith("/api/"):
                self.answer_api()
            else:
                self.answer_file()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def plain(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.plain(status, [("X-Error-Code", code), ("X-Error-Message", code)], b'{"error":"%s"}' % code.encode())

    def json(self, value, headers=()):
        self.plain(200, [("Content-Type", "application/json"), *headers], json.dumps(value).encode())

    def repository(self, parts):
        """The repository that the first words of a path name, and the other words."""
        kind = "models"
        if parts and parts[0] in ("datasets", "models"):
            kind, parts = parts[0], parts[1:]
        for words in (1, 2):
            found = self.hub.repositories.get((kind, "/".join(parts[:words])))
            if found:
                return found, parts[words:]
        return None, parts

    def answer_api(self):
        parts = [urllib.parse.unquote(part) for part in self.url.path.split("/")[2:]]
        repository, rest = self.repository(parts)
        if repository is None:
            return self.refuse(401, "RepoNotFound")
        if rest == ["refs"]:
            return self.json({"branches": [{"name": "main"}], "tags": [{"name": "v1"}]})
        limit = self.hub.fault("limit")
        if limit:
            return self.plain(429, [("RateLimit", '"api";r=0;t=%d' % limit)])
        if self.hub.fault("refuse"):
            return self.plain(403, [("X-Error-Message", self.hub.fault("refuse") + "\x1b[2J")])
        if len(rest) == 2 and not repository.has(rest[1]):
            return self.refuse(404, "RevisionNotFound")
        if rest == [] or rest[0] == "revision":
            return self.json(repository.info())
        if rest[0] == "tree" and not self.hub.fault("no_tree"):
            entries = self.hub.fault("tree") or [repository.entry(path) for path in repository.files]
            query = urllib.parse.parse_qs(self.url.query)
            size, begin = self.hub.fault("page") or 1000, int(query.get("cursor", ["0"])[0])
            link = "<%s%s?recursive=true&cursor=%d>; rel=\"next\"" % (self.hub.endpoint, self.url.path, begin + size)
            return self.json(entries[begin:begin + size], [("Link", link)] if begin + size < len(entries) else [])
        self.plain(404)

    def answer_file(self):
        parts = [urllib.parse.unquote(part) for part in self.url.path.split("/")[1:]]
        repository, rest = self.repository(parts)
        if repository is None:
            return self.refuse(401, "RepoNotFound")
        if self.hub.fault("gated"):
            return self.refuse(403 if self.headers.get("Authorization") else 401, "GatedRepo")
        path = "/".join(rest[2:])
        if rest[:1] != ["resolve"] or not repository.has(rest[1]):
            return self.refuse(404, "RevisionNotFound")
        commit = [("X-Repo-Commit", repository.commit)]
        if path not in repository.files:
            return self.plain(404, [("X-Error-Code", "EntryNotFound"), *commit])
        content = repository.files[path]
        if self.hub.fault("loop", path):
            return self.plain(302, [("Location", self.path), *commit])
        if len(content) < LARGE:
            return self.content(path, content, [("ETag", '"%s"' % repository.etag(path)), *commit])
        address = "%s/%s/%s/%s?signature=%s" % (self.hub.elsewhere, repository.kind, repository.name,
                                                urllib.parse.quote(path), self.hub.sign())
        size = [] if self.hub.fault("no_sizes") else [("X-Linked-Size", str(len(content)))]
        self.plain(302, [("Location", address), ("X-Linked-Etag", '"%s"' % repository.etag(path)), *size, *commit])

    def answer_elsewhere(self):
        parts = [urllib.parse.unquote(part) for part in self.url.path.split("/")[1:]]
        repository, rest = self.repository(parts)
        signature = urllib.parse.parse_qs(self.url.query).get("signature", [""])[0]
        headless = self.command == "HEAD" and self.hub.fault("no_head")
        if headless or self.headers.get("Authorization") or not self.hub.use(signature):
            return self.plain(403)
        self.content("/".join(rest), repository.files["/".join(rest)], [])

    def content(self, path, content, headers):
        hub = self.hub
        status = hub.fault("status", path) if self.command == "GET" else None
        if status:
            wait = hub.faults.get("retry_after")
            return self.plain(status, [("Retry-After", str(wait))] if wait is not None else [])
        begin, end, wanted = 0, len(content), self.headers.get("Range")
        ranged = wanted is not None and not hub.fault("all", path)
        if ranged:
            first, last = wanted.removeprefix("bytes=").split("-")
            begin, end = int(first), min(int(last) + 1 if last else end, end)
            moved = 1 if hub.fault("range", path) else 0
            headers = [*headers, ("Content-Range", "bytes %d-%d/%d" % (begin + moved, end - 1 + moved, len(content)))]
        body = content[begin:end]
        whole = self.command == "GET" and body
        if whole and hub.fault("corrupt", path):
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(206 if ranged else 200)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) + (10 if whole and hub.fault("length", path) else 0)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = hub.fault("cut", path)
        stall = hub.fault("stall", path) if cut is None else None
        limit = cut if cut is not None else stall
        for at in range(0, len(body) if limit is None else min(limit, len(body)), PIECE):
            piece = body[at:at + PIECE] if limit is None else body[at:min(at + PIECE, limit)]
            self.wfile.write(piece)
            with hub.lock:
                hub.sent[path] = hub.sent.get(path, 0) + len(piece)
            if "slow" in hub.faults:
                time.sleep(hub.faults["slow"])
        if stall is not None and stall < len(body):
            time.sleep(20)
        if limit is not None and limit < len(body):
            self.close_connection = True


if __name__ == "__main__":
    served = Hub(sys.argv[1])
    print(served.endpoint, flush=True)
    threading.Event().wait()
