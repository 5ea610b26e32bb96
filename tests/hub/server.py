#!/usr/bin/env python3
"""server.py - a hub on loopback that behaves well, or badly on order, for the tests of this folder.

    server.py DIR [SECONDS]     repositories are made in DIR; ends by itself after SECONDS (120), or when DIR/stop appears

DIR/port and DIR/cdn hold the ports (the hub, and a storage host that it sends clients on to) once both listen; every request is
one JSON line in DIR/requests. What goes wrong is the first part of the path: HF_ENDPOINT=http://127.0.0.1:PORT/cut, say; the
list stands in SCENARIOS. Written after what huggingface.co answers: /api/{models,datasets}/REPO/revision/REV, /tree/COMMIT,
/resolve/COMMIT/PATH with X-Linked-Etag and a redirect for large files, git's SHA-1 as ETag for small ones. Standard library only.
"""
import gzip, hashlib, json, os, random, re, socket, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

SCENARIOS = """plain: nothing         cut: large files break off once, at half        cutall: they break off at each try, after 3 MiB
norange: ranges are ignored   cutnorange: both   badsha: one byte is another    short: fewer bytes than announced in the list
long: more bytes, without a length   badetag: another hash in the headers    badsize: another size in the headers
html: a page instead of a file   htmlapi: instead of the list   loop: redirects without end   hops5, hops6: so many redirects
tofile, tometa, touser, tofake, tolocal: redirects to file://, 169.254.169.254, a user name, 0x7f.1 as hex, localhost (allowed here)
other: the list is on another port   api429, file429, file503: two refusals, then the answer   wait: Retry-After of a day
always503   loris: a byte each second   lorishead: in the headers   gzip, gzipapi: packed answers   expired: signed links end
auth: 401 without the token   pages: the list in pages   evilnext: the next page is elsewhere   name-HEX: a file of that name
twins: two names that differ by case   slow-N: N bytes a second and connection   badjson, dupjson, nul: lists that are no JSON
gone: 404   empty: an empty answer   badblob: small files are others than announced   midhtml: storage answers with a page"""

TOKEN = "hf_CANARYcanary0123456789"
COMMIT = hashlib.sha1(b"medrl").hexdigest()


def blob_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Repo:
    def __init__(self, root, files, large):
        self.files = {}
        for name, data in files.items():
            path = os.path.join(root, hashlib.sha1(name.encode()).hexdigest())
            if isinstance(data, tuple):
                path, = data
            else:
                os.makedirs(root, exist_ok=True)
                with open(path, "wb") as f:
                    f.write(data)
            with open(path, "rb") as f:
                body = f.read()
            lfs = name.endswith(large)
            self.files[name] = dict(path=path, size=len(body), lfs=lfs, sha256=hashlib.sha256(body).hexdigest(),
                                    oid=blob_sha1(body))

    def tree(self):
        out = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "folder"}]
        for name, f in self.files.items():
            e = {"type": "file", "oid": f["oid"], "size": f["size"], "path": name}
            if f["lfs"]:
                e["oid"] = hashlib.sha1(name.encode()).hexdigest()
                e["lfs"] = {"oid": f["sha256"], "size": f["size"], "pointerSize": 134}
            out.append(e)
        return out


def make_repos(top):
    rng = random.Random(5)
    def noise(n):
        return rng.randbytes(n)
    large = (".safetensors", ".bin", ".gguf", ".parquet", ".gz")
    repos = {}
    def add(name, files):
        repos[name] = Repo(os.path.join(top, "content", name.replace("/", "-")), files, large)
    add("models/test/tiny", {"config.json": b'{"model_type": "llama"}', "tokenizer.json": b'{"a": 1}', "empty.txt": b"",
                             "chat_template.jinja": b"{{ messages }}", "model.safetensors": noise(9 * 1048576 + 12345),
                             "pytorch_model.bin": noise(1000), "README.md": b"# tiny", "onnx/x.json": b"{}",
                             "weights.h5": b"x"})
    half = noise(300000)
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors",
                                            "c": "model-00002-of-00002.safetensors"}}
    add("models/test/sharded", {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode(),
                                "model-00001-of-00002.safetensors": half, "model-00002-of-00002.safetensors": half[::-1],
                                "consolidated.safetensors": noise(2000)})
    add("models/test/pickle", {"config.json": b"{}", "pytorch_model.bin": noise(100)})
    add("models/test/gguf", {"a-q4_k_m.gguf": noise(5000), "a-q8_0.gguf": noise(9000), "config.json": b"{}"})
    add("models/test/one-gguf", {"a-q8_0.gguf": noise(9000)})
    add("models/test/nothing", {"README.md": b"x"})
    add("datasets/test/data", {"data/train.jsonl": b'{"question": "1+1?", "answer": "#### 2"}\n' * 50, "README.md": b"x",
                               "data/test.csv.gz": gzip.compress(b"a,b\n1,2\n"), "evil.py": b"import os"})
    add("datasets/test/one", {"train.jsonl": b'{"question": "1+1?", "answer": "#### 2"}\n' * 20})
    add("datasets/test/many", {"data/part-%04d.jsonl" % i: b'{"i": %d}\n' % i for i in range(300)})
    for name in ("tiny_llama3", "tiny_qwen2"):
        source = os.environ.get("MEDRL_GOLDEN", "") + "/tiny/" + name
        if os.path.isdir(source):
            files = {n: (os.path.join(source, n),) for n in os.listdir(source)}
            tokens = os.environ["MEDRL_GOLDEN"] + "/tokenizer_tiny96/"
            files.update({n: (tokens + n,) for n in os.listdir(tokens)})
            add("models/test/" + name, files)
    # the data sets of recipes/medical_mix.lua, as the hub lays them out
    parquet = os.path.join(os.environ.get("MEDRL_GOLDEN", ""), "parquet")
    if os.path.isdir(parquet):
        def rows(name):
            return (os.path.join(parquet, name + "_like.parquet"),)
        add("datasets/openai/gsm8k", {"main/train-00000-of-00001.parquet": rows("gsm8k"),
            "main/test-00000-of-00001.parquet": rows("gsm8k"), "socratic/train-00000-of-00001.parquet": rows("gsm8k"),
            "README.md": b"x"})
        add("datasets/qiaojin/PubMedQA", {"pqa_%s/train-00000-of-00001.parquet" % c: rows("pubmedqa_" + ("labeled" if c == "labeled" else "artificial"))
            for c in ("artificial", "labeled", "unlabeled")})
        lua = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../lua/datasets/health_benchmarks.lua")
        parts = re.findall(r'"(\w+)"', open(lua).read().split("local categories")[1].split("}")[0]) + ["Ethics"]
        health = rows("health_benchmarks")
        add("datasets/yesilhealth/Health_Benchmarks", {"data/%s-00000-of-00001.parquet" % p: health for p in parts})
        add("datasets/test/health", {"%s/%s-00000-of-00001.parquet" % (p, p): health for p in parts})
    big = int(os.environ.get("HUB_BIG", "0"))
    if big:
        add("models/test/big", {"config.json": b"{}", "model.safetensors": noise(1 << 20) * big})
    return repos


class State:
    lock = threading.Lock()
    counts = {}

    @classmethod
    def nth(cls, key):
        with cls.lock:
            cls.counts[key] = cls.counts.get(key, 0) + 1
            return cls.counts[key]


class HeadOnly:
    """Lets an answer's head through and nothing after its empty line."""

    def __init__(self, to):
        self.to, self.done = to, False

    def write(self, data):
        if not self.done:
            self.to.write(data)
        self.done = self.done or data.endswith(b"\r\n\r\n")
        return len(data)

    def flush(self):
        self.to.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "mockhub"

    def log_message(self, *args):
        pass

    def note(self, **more):
        line = {"host": self.server.role, "path": self.path, "range": self.headers.get("Range"),
                "auth": self.headers.get("Authorization"), "headers": dict(self.headers.items()), **more}
        with State.lock, open(self.server.log, "a") as f:
            f.write(json.dumps(line) + "\n")

    def head(self, status, length, kind="application/octet-stream", **headers):
        self.send_response(status)
        if length is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", kind)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def text(self, status, body, kind="application/json", **headers):
        if isinstance(body, str):
            body = body.encode()
        self.head(status, len(body), kind, **headers)
        self.wfile.write(body)

    def page(self):
        self.text(200, "<html><body>Please log in</body></html>", "text/html; charset=utf-8")

    def send_on(self, to, **headers):
        self.head(302, 0, "text/plain", Location=to, **headers)

    def cut(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def do_HEAD(self):  # what huggingface_hub asks before it downloads (peers/hub_check.py); medrl never does
        body, self.wfile = self.wfile, HeadOnly(self.wfile)
        self.do_GET()
        self.wfile = body

    def do_GET(self):
        self.note()
        parts = urlsplit(self.path).path.split("/")
        scenario, rest = parts[1], [unquote(p) for p in parts[2:]]
        try:
            if scenario == "lorishead":
                return self.trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            if rest[:1] == ["hop"]:
                return self.hop(scenario, int(rest[1]), "/".join(rest[2:]))
            if rest[:1] == ["api"]:
                return self.api(scenario, rest[1:])
            if rest[:1] == ["store"]:
                return self.store(scenario, rest[1], rest[2], "/".join(rest[3:]))
            kind = "datasets" if rest[0] == "datasets" else "models"
            rest = rest[1:] if kind == "datasets" else rest
            repo, word, path = "/".join([kind, *rest[:2]]), rest[2], "/".join(rest[4:])
            if word != "resolve" or rest[3] not in (COMMIT, "main"):
                return self.text(404, "{}")
            return self.resolve(scenario, repo, path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def trickle(self, data):
        for byte in data:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(1)

    def refused(self, scenario, what):
        if scenario == what + "429" and State.nth(self.path) <= 2:
            self.text(429, "slow down", "text/plain", Retry_After="1")
            return True
        if scenario == what + "503" and State.nth(self.path) <= 2:
            self.text(503, "busy", "text/plain")
            return True
        if scenario == "always503" and what == "file":
            self.text(503, "busy", "text/plain")
            return True
        return False

    # --- the list

    def api(self, scenario, rest):
        repo = "/".join(rest[:3])
        if scenario == "auth" and self.headers.get("Authorization") != "Bearer " + TOKEN:
            return self.text(401, '{"error": "Invalid username or password."}')
        if scenario == "gone":
            return self.text(404, '{"error": "Repository not found"}')
        if scenario == "other" and self.server.role == "hub":
            return self.send_on("http://127.0.0.1:%d%s" % (self.server.other, self.path))
        if scenario == "htmlapi":
            return self.page()
        if scenario == "loop":
            return self.send_on(self.path)
        if scenario == "wait":
            return self.text(429, "", Retry_After="86400")
        if self.refused(scenario, "api"):
            return
        if scenario == "empty":
            return self.text(200, "")
        if scenario == "gzipapi":
            return self.text(200, gzip.compress(b" " * 10000000), Content_Encoding="gzip")
        found = self.server.repos.get(repo)
        if not found:
            return self.text(404, '{"error": "Repository not found"}')
        if rest[3] == "revision":
            sha = COMMIT if rest[4] in ("main", "v1", "refs/pr/1", COMMIT) else None
            return self.text(200, json.dumps({"id": repo, "sha": sha})) if sha else self.text(404, "{}")
        tree = found.tree()
        if scenario.startswith("name-"):
            tree = [{"type": "file", "oid": "0" * 40, "size": 3,
                     "path": bytes.fromhex(scenario[5:]).decode("utf-8", "surrogateescape")}]
        if scenario == "twins":
            tree += [{"type": "file", "oid": "1" * 40, "size": 3, "path": "Config.json"}]
        text = json.dumps(tree)
        if scenario == "badjson":
            text = text[:-5]
        if scenario == "dupjson":
            text = text.replace('"size":', '"size": 1, "size":')
        headers = {}
        if scenario in ("pages", "evilnext"):
            at = 0 if "cursor=" not in self.path else int(self.path.split("cursor=")[1])
            text = json.dumps(tree[at:at + 2])
            if at + 2 < len(tree):
                host = "127.0.0.1:%d" % (self.server.server_port if scenario == "pages" else self.server.other)
                headers["Link"] = '<http://%s%s&cursor=%d>; rel="next"' % (host, self.path.split("&")[0], at + 2)
        self.text(200, text, **headers)

    # --- files

    def resolve(self, scenario, repo, path):
        f = self.server.repos[repo].files.get(path)
        if scenario == "auth" and self.headers.get("Authorization") != "Bearer " + TOKEN:
            return self.text(401, "")
        if not f:
            return self.text(404, "")
        if self.refused(scenario, "file"):
            return
        if not f["lfs"]:
            if scenario == "html":
                return self.page()
            with open(f["path"], "rb") as g:
                body = g.read()
            if scenario == "badblob" and body:
                body = body[:-1] + b"?"
            if scenario == "gzip":
                return self.text(200, gzip.compress(body), ETag='"%s"' % f["oid"], Content_Encoding="gzip")
            return self.text(200, body, "text/plain; charset=utf-8", ETag='"%s"' % f["oid"], X_Repo_Commit=COMMIT)
        headers = {"X_Linked_Etag": '"%s"' % f["sha256"], "X_Linked_Size": str(f["size"]), "X_Repo_Commit": COMMIT}
        if scenario == "badetag":
            headers["X_Linked_Etag"] = '"%s"' % ("0" * 64)
        if scenario == "badsize":
            headers["X_Linked_Size"] = "17"
        store = "http://127.0.0.1:%d/%s/store/%s/%s?X-Signature=secret" % (
            self.server.other, scenario, repo.replace("/", "+"), path)
        to = {"tofile": "file:///etc/passwd", "tometa": "http://169.254.169.254/latest/meta-data/", "loop": self.path,
              "touser": "http://user:pw@127.0.0.1/", "tofake": "http://0xa9fea9fe/x", "togopher": "gopher://127.0.0.1/",
              "tolocal": store.replace("127.0.0.1", "localhost")}.get(scenario, store)
        if scenario in ("hops5", "hops6"):
            to = "/%s/hop/%d/store/%s/%s" % (scenario, int(scenario[4]) - 2, repo.replace("/", "+"), path)
        self.send_on(to, **headers)

    def hop(self, scenario, left, rest):
        if left > 0:
            return self.send_on("/%s/hop/%d/%s" % (scenario, left - 1, rest))
        self.send_on("http://127.0.0.1:%d/%s/%s" % (self.server.other, scenario, rest))

    def store(self, scenario, repo, first, rest):
        path = "/".join([first, rest]) if rest else first
        f = self.server.repos[repo.replace("+", "/")].files[path]
        size, at, end, status = f["size"], 0, f["size"], 200
        n = State.nth(scenario + path)
        if scenario == "expired" and n in (2, 3):
            return self.text(403, "Request has expired", "text/plain")
        if scenario in ("html", "midhtml"):
            return self.page()
        want = self.headers.get("Range")
        if want and not scenario.endswith("norange"):
            low, high = want.split("=")[1].split("-")
            at, end, status = int(low), int(high or size - 1) + 1, 206
        headers = {"ETag": '"storage-tag"'}
        if status == 206:
            headers["Content_Range"] = "bytes %d-%d/%d" % (at, end - 1, size)
        if scenario == "gzip":
            headers["Content_Encoding"] = "gzip"
        length = end - at
        if scenario == "long":
            self.head(status, None, **headers)
            self.send_file(f["path"], at, end - at)
            self.wfile.write(b"more")
            return
        if scenario == "short":
            self.head(200, size - 100, **headers)
            return self.send_file(f["path"], 0, size - 100)
        self.head(status, length, **headers)
        if scenario == "loris":
            return self.trickle(b"x" * 60)
        if scenario in ("cut", "cutnorange") and n == 1:
            self.send_file(f["path"], at, length // 2)
            return self.cut()
        if scenario == "cutall":
            self.send_file(f["path"], at, min(length, 3 << 20))
            return self.cut()
        if scenario == "badsha" and at == 0:
            self.wfile.write(b"?")
            at, length = 1, length - 1
        rate = int(scenario[5:]) if scenario.startswith("slow-") else None
        self.send_file(f["path"], at, length, rate)

    def send_file(self, path, at, length, rate=None):
        self.wfile.flush()
        with open(path, "rb") as f:
            start, sent = time.monotonic(), 0
            while sent < length:
                piece = length - sent if rate is None else min(length - sent, max(rate // 50, 1))
                n = os.sendfile(self.connection.fileno(), f.fileno(), at + sent, piece)
                if n == 0:
                    break
                sent += n
                if rate:
                    ahead = sent / rate - (time.monotonic() - start)
                    if ahead > 0:
                        time.sleep(ahead)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    top, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 120
    repos = make_repos(top)
    servers = [Server(("127.0.0.1", 0), Handler), Server(("127.0.0.1", 0), Handler)]
    for i, s in enumerate(servers):
        s.repos, s.log, s.role = repos, os.path.join(top, "requests"), ("hub", "cdn")[i]
        s.other = servers[1 - i].server_port
        threading.Thread(target=s.serve_forever, daemon=True).start()
    with open(os.path.join(top, "sums"), "w") as f:
        for repo, r in repos.items():
            for name, x in r.files.items():
                f.write("%s %s %s\n" % (x["sha256"], repo, name))
    for i, name in enumerate(("cdn", "port")):
        with open(os.path.join(top, name + ".new"), "w") as f:
            f.write("%d\n" % servers[1 - i].server_port)
        os.rename(os.path.join(top, name + ".new"), os.path.join(top, name))
    end, parent = time.monotonic() + seconds, os.getppid()
    while time.monotonic() < end and not os.path.exists(os.path.join(top, "stop")) and os.getppid() == parent:
        time.sleep(0.1)


main()
