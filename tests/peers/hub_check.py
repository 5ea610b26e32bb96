#!/usr/bin/env python3
"""hub_check.py MEDRL: the cache that medrl and Python's huggingface_hub share, in both directions, over the hub of tests/hub.

An optional extra, no part of the test suite: it wants the package huggingface_hub, and says so when that is absent.
Exit code 1: one of the two did not find, or fetched again, what the other had downloaded."""
import json
import os
import subprocess
import sys
import tempfile
import time

try:
    import huggingface_hub
except ImportError:
    sys.exit("skip: the package huggingface_hub is not installed")

here = os.path.dirname(os.path.abspath(__file__))
medrl = os.path.abspath(sys.argv[1])
failed = 0


def say(ok, text):
    global failed
    failed += not ok
    print("ok  " if ok else "FAIL", text, flush=True)


with tempfile.TemporaryDirectory() as temp:
    hub = os.path.join(temp, "hub")
    os.mkdir(hub)
    server = subprocess.Popen([sys.executable, os.path.join(here, "../hub/server.py"), hub, "120"])
    while not os.path.exists(os.path.join(hub, "port")):
        time.sleep(0.05)
    endpoint = "http://127.0.0.1:%s/plain" % open(os.path.join(hub, "port")).read().strip()

    def requests():
        return sum("/resolve/" in line and '"host": "hub"' in line for line in open(os.path.join(hub, "requests")))

    def pull(cache, *args):
        env = dict(os.environ, HF_HUB_CACHE=cache, HF_ENDPOINT=endpoint)
        out = subprocess.run([medrl, "pull", *args, "--json"], env=env, capture_output=True, text=True)
        return json.loads(out.stdout) if out.returncode == 0 else {"path": "", "fetched_bytes": -1, "error": out.stderr}

    ours, theirs = os.path.join(temp, "ours"), os.path.join(temp, "theirs")
    for kind, repo in (("model", "test/tiny"), ("dataset", "test/data")):
        got = pull(ours, repo, *(["--dataset"] if kind == "dataset" else []))
        found = huggingface_hub.snapshot_download(repo, repo_type=kind, cache_dir=ours, local_files_only=True)
        say(os.path.samefile(found, got["path"]), "%s %s: snapshot_download finds what medrl pulled" % (kind, repo))
        before = requests()
        one = "model.safetensors" if kind == "model" else "data/train.jsonl"
        path = huggingface_hub.hf_hub_download(repo, one, repo_type=kind, cache_dir=ours, endpoint=endpoint)
        say(requests() - before <= 1 and os.path.exists(path), "%s: hf_hub_download asks for the head of %s and no more" % (kind, one))
    info = huggingface_hub.scan_cache_dir(ours)
    say(len(info.repos) == 2 and not info.warnings, "scan_cache_dir: %d repositories, %d warnings" % (len(info.repos), len(info.warnings)))

    for name in ("model.safetensors", "config.json", "tokenizer.json", "empty.txt", "chat_template.jinja", "README.md"):
        huggingface_hub.hf_hub_download("test/tiny", name, cache_dir=theirs, endpoint=endpoint)
    before = requests()
    got = pull(theirs, "test/tiny")
    say(got["fetched_bytes"] == 0 and requests() == before, "medrl pull fetches nothing of what hf_hub_download has: %s" % got)
    open(os.path.join(hub, "stop"), "w").close()
    server.wait()
print("huggingface_hub", huggingface_hub.__version__)
sys.exit(failed > 0)
