#!/usr/bin/env python3
"""`ridgeline fetch` against servers on this machine: a hub that can be made to fail (hub_server.py), nginx, and beside
huggingface_hub's own client.

    hub_cases.py RIDGELINE CASE        exit code 77: this machine cannot try it, and why
    hub_cases.py --list

Environment: HUB_KILLS (default 10): how often case `kills` kills the program. RIDGELINE_HUB_CLIENT: a Python that has
huggingface_hub (default: one is made with pip in the build folder).
"""
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from hub_server import LARGE, Hub, git_hash

PROGRAM, WORK = None, None
CASES = {}
SKIPPED = 77


def case(function):
    CASES[function.__name__] = function
    return function


def skip(reason):
    print("SKIPPED:", reason)
    sys.exit(SKIPPED)


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def read(path):
    with open(path, "rb") as file:
        return file.read()


def noise(size, seed):
    return random.Random(seed).randbytes(size)


def make_repositories(folder, weights=6_300_000):
    model = os.path.join(folder, "models", "tiny", "gpt")
    write(f"{model}/config.json", '{"model_type": "gpt2"}')
    write(f"{model}/tokenizer.json", "{}" * 20)
    write(f"{model}/merges.txt", "#version: 0.2\n")
    write(f"{model}/empty.txt", "")
    write(f"{model}/model.safetensors", noise(weights, 1))
    write(f"{model}/pytorch_model.bin", noise(LARGE, 2))
    write(f"{model}/flax_model.msgpack", noise(LARGE, 3))
    write(f"{model}/onnx/model.onnx", noise(LARGE, 4))
    oscar = os.path.join(folder, "datasets", "oscar")
    write(f"{oscar}/README.md", "OSCAR")
    write(f"{oscar}/oscar.py", "pass")
    for kind in ("deduplicated", "original"):
        for language in ("af", "als"):
            place = f"{oscar}/unshuffled/{kind}/{language}/{language}"
            write(f"{place}_part_1.txt.gz", noise(LARGE + 500, kind + language))
            write(f"{place}_part_2.txt.gz", noise(700, kind + language + "2"))
            write(f"{place}_sha256.txt", "x\ty\n")


class World:
    """A hub with faults, and an environment in which the program knows nothing else."""

    def __init__(self, weights=6_300_000, **options):
        self.folder = tempfile.mkdtemp(dir=WORK)
        make_repositories(f"{self.folder}/served", weights)
        self.hub = Hub(f"{self.folder}/served", **options)
        self.home = f"{self.folder}/home"
        self.environment = {"PATH": os.environ["PATH"], "HOME": self.folder, "HF_HOME": self.home,
                            "HF_ENDPOINT": self.hub.endpoint, "HF_HUB_DOWNLOAD_TIMEOUT": "2", "no_proxy": "*"}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
            if name in os.environ:
                self.environment[name] = os.environ[name]

    def start(self, *arguments, **environment):
        return subprocess.Popen([PROGRAM, "fetch", *arguments], env={**self.environment, **environment},
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder)

    def fetch(self, *arguments, code=0, says=(), **environment):
        """Runs the program; its last line on standard output and all of standard error."""
        process = self.start(*arguments, **environment)
        out, error = process.communicate(timeout=120)
        print("$ ridgeline fetch", *arguments, ": exit", process.returncode)
        print("".join(f"    {line}\n" for line in (out + error).splitlines()), end="")
        assert process.returncode == code, f"exit {process.returncode} instead of {code}"
        for text in says:
            assert text in error, f"does not say {text!r}"
        return out.splitlines()[-1] if out else "", error

    def sent(self):
        with self.hub.lock:
            return self.hub.sent.get("model.safetensors", 0)

    def repository(self, kind="models", name="tiny/gpt"):
        return self.hub.repositories[kind, name]

    def asked_for(self, ending, server=None):
        return [one for one in self.hub.asked if one["path"].endswith(ending) and server in (None, one["server"])]

    def check_cache(self, folder, repository, paths):
        """The whole layout of huggingface_hub, and every byte."""
        top = f"{self.home}/hub/{repository.kind}--{repository.name.replace('/', '--')}"
        assert folder == f"{top}/snapshots/{repository.commit}", folder
        assert read(f"{top}/refs/main").decode() == repository.commit
        found = sorted(os.path.relpath(os.path.join(at, name), folder)
                       for at, _, names in os.walk(folder) for name in names)
        assert found == sorted(paths), found
        for path in paths:
            link = os.readlink(f"{folder}/{path}")
            assert link == "../" * (2 + path.count("/")) + "blobs/" + repository.etag(path), link
            assert read(f"{folder}/{path}") == repository.files[path], path
        blobs = sorted(os.listdir(f"{top}/blobs"))
        assert blobs == sorted({repository.etag(path) for path in paths}), blobs


MODEL = ["config.json", "empty.txt", "merges.txt", "model.safetensors", "tokenizer.json"]
LANGUAGE = [f"unshuffled/deduplicated/af/af{end}" for end in ("_part_1.txt.gz", "_part_2.txt.gz", "_sha256.txt")]


@case
def model():
    world = World()
    folder, error = world.fetch("model", "tiny/gpt", says=["flax_model.msgpack", "onnx/model.onnx", "6.01 MiB", "MB/s"])
    world.check_cache(folder, world.repository(), MODEL)
    ranges = [one["range"] for one in world.asked_for("model.safetensors", "elsewhere")]
    assert len(ranges) == 7 and len(set(ranges)) == 7, ranges
    world.hub.asked.clear()
    again, _ = world.fetch("model", "tiny/gpt", says=["there already"])
    assert again == folder and not world.asked_for("model.safetensors"), world.hub.asked
    pinned, _ = world.fetch("model", "tiny/gpt", "--revision", world.repository().commit)
    assert pinned == folder
    assert not [one for one in world.hub.asked[-2:] if "/revision/" in one["path"]], "a commit was looked up"
    world.fetch("model", "tiny/gpt", "--revision", "v1")
    assert read(f"{folder}/../../refs/v1").decode() == world.repository().commit


@case
def patterns():
    world = World()
    folder, _ = world.fetch("model", "tiny/gpt", "--include", "onnx/", "*.json", "--exclude", "config.json")
    world.check_cache(folder, world.repository(), ["onnx/model.onnx", "tokenizer.json"])
    world.fetch("model", "tiny/gpt", "--include", "confg.json", code=1, says=["--include", "'config.json'"])
    world.fetch("model", "tiny/gpt", "--exclude", "*.gguf", code=1, says=["--exclude", "*.gguf"])


@case
def dataset():
    world = World(page=2)  # the list comes in pages
    folder, error = world.fetch("dataset", "oscar", "--config", "unshuffled_deduplicated_af",
                                HF_HUB_DISABLE_PROGRESS_BARS="1")
    assert "3 files" in error and "MB/s" not in error
    world.check_cache(folder, world.repository("datasets", "oscar"), LANGUAGE)
    world.fetch("dataset", "oscar", "--config", "unshuffled_deduplicated_aff", code=1,
                says=["unshuffled_deduplicated_aff", "Did you mean unshuffled_deduplicated_af?"])
    world.fetch("dataset", "oscar", "--config", "unshuffled_deduplicated_af", "--split", "test", code=1,
                says=["--split", "'test'"])


@case
def names_only():
    """A hub that lists names and no more: sizes and hashes come with each file."""
    for more in ({}, {"no_sizes": True}):
        world = World(no_tree=True, **more)
        folder, _ = world.fetch("model", "tiny/gpt")
        world.check_cache(folder, world.repository(), MODEL)
    # The length of a refusal is not that of a file.
    world = World(no_tree=True, no_sizes=True, no_head=True)
    world.fetch("model", "tiny/gpt", code=1, says=["403 Forbidden", "model.safetensors"])


@case
def folder():
    world = World()
    out, _ = world.fetch("model", "tiny/gpt", "--out", "here/gpt")
    top = f"{world.folder}/{out}"
    assert out == "here/gpt" and sorted(os.listdir(top)) == MODEL, os.listdir(top)
    for path in MODEL:
        assert read(f"{top}/{path}") == world.repository().files[path] and not os.path.islink(f"{top}/{path}")
    world.hub.asked.clear()
    world.fetch("model", "tiny/gpt", "--out", "here/gpt", says=["there already"])
    assert not world.asked_for("model.safetensors")
    # No cache is wanted, so none need be known; where one is, that is an error.
    homeless = {"HOME": "", "HF_HOME": ""}
    world.fetch("model", "tiny/gpt", "--out", "here/gpt", says=["there already"], **homeless)
    world.fetch("model", "tiny/gpt", code=1, says=["neither HF_HOME nor HOME is set", "--out"], **homeless)
    write(f"{top}/config.json", '{"model_type": "mine"}')
    world.fetch("model", "tiny/gpt", "--out", "here/gpt", code=1, says=["here/gpt/config.json", "another folder"])
    assert b"mine" in read(f"{top}/config.json")


def arrives(weights=6_300_000, seconds=60, says=(), arguments=(), **faults):
    """A model comes whole through a fault."""
    world = World(weights, **faults)
    begun = time.monotonic()
    folder, _ = world.fetch("model", "tiny/gpt", *arguments, says=says)
    world.check_cache(folder, world.repository(), MODEL)
    assert time.monotonic() - begun < seconds
    return world


@case
def cuts():
    world = arrives(cut=400_000, times=12, says=["tried again"])
    # What had come was not asked for again.
    assert world.hub.sent["model.safetensors"] == 6_300_000, world.hub.sent


@case
def stalls():
    world = arrives(stall=300_000, times=3, on="model.safetensors", says=["Operation too slow"])
    assert world.hub.sent["model.safetensors"] == 6_300_000, world.hub.sent


@case
def ranges_ignored():
    arrives(all=True)
    # The beginning comes again and is passed over, as often as the connection breaks. (One at a time: which of several
    # answers goes on, and how many are broken in vain, is chance.)
    arrives(all=True, cut=2_500_000, times=4, says=["tried again"], arguments=["--connections", "1"])


@case
def signatures_expire():
    world = arrives(expire=2)
    refused = len(world.asked_for("model.safetensors", "hub"))
    assert refused >= 3, world.hub.asked


@case
def busy():
    begun = time.monotonic()
    arrives(status=429, times=2, retry_after=2, says=["429 Too Many Requests"])
    assert time.monotonic() - begun > 2, "Retry-After was not kept"
    _, error = World(limit=1, times=1).fetch("model", "tiny/gpt")
    pause = re.search(r"429 Too Many Requests; tried again in ([0-9.]+) s", error)
    assert pause and 1 <= float(pause[1]) <= 2, "RateLimit was not kept"
    arrives(status=503, times=3, says=["503 Service Unavailable"])
    world = World(status=503)
    world.fetch("model", "tiny/gpt", code=1, says=["503 Service Unavailable", "6 tries", "goes on from what is there"])
    world = World(status=429, retry_after=4000)
    world.fetch("model", "tiny/gpt", code=1, says=["come back in 4000 seconds"])


@case
def wrong_lengths():
    arrives(length=True, times=2, says=["are announced"])
    arrives(range=True, times=2, says=["were asked for"])


@case
def corrupt():
    arrives(corrupt=True, times=3, on="model.safetensors", says=["SHA-256 is", "fetched anew"])
    world = World(corrupt=True)
    _, error = world.fetch("model", "tiny/gpt", code=1, says=["twice"])
    blobs = os.listdir(f"{world.home}/hub/models--tiny--gpt/blobs")
    empty = world.repository().etag("empty.txt")
    assert all("incomplete" in name or name == empty for name in blobs), blobs
    assert not os.path.exists(f"{world.home}/hub/models--tiny--gpt/snapshots/{world.repository().commit}")
    # Nothing to fetch anew, and still not what it is to be.
    world = World(tree=[{"type": "file", "oid": "0" * 40, "size": 0, "path": "empty.txt"}])
    world.fetch("model", "tiny/gpt", "--include", "*", code=1, says=["git's hash is", "twice"])


@case
def tokens():
    world = World()
    world.fetch("model", "tiny/gpt", HF_TOKEN=" hf_secret\n")
    for one in world.hub.asked:
        assert one["token"] == ("Bearer hf_secret" if one["server"] == "hub" else None), one
    assert world.asked_for("model.safetensors", "elsewhere")
    world = World(gated=True)
    write(f"{world.home}/token", "hf_file\n")
    world.fetch("model", "tiny/gpt", code=1, says=["gated", f"'{world.home}/token'", f"{world.hub.endpoint}/tiny/gpt"])
    assert world.asked_for("config.json")[0]["token"] == "Bearer hf_file"
    world = World(gated=True)
    _, error = world.fetch("model", "tiny/gpt", code=1, says=["gated", "no token was sent", "HF_TOKEN"])
    world.fetch("model", "tiny/gpt", code=1, says=["HF_TOKEN", "no token has"], HF_TOKEN="two words")


@case
def certificates():
    if not shutil.which("openssl"):
        skip("openssl is not installed")
    both = f"{WORK}/both.pem"
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hub", "-addext",
                    names, "-keyout", f"{WORK}/key.pem", "-out", f"{WORK}/cert.pem"], check=True, stderr=subprocess.DEVNULL)
    write(both, read(f"{WORK}/key.pem") + read(f"{WORK}/cert.pem"))
    world = World(certificate=both)
    begun = time.monotonic()
    world.fetch("model", "tiny/gpt", code=1, says=["certificate", "cannot be had from"])
    assert not world.hub.asked and time.monotonic() - begun < 5, "what no try mends was tried again"
    folder, _ = world.fetch("model", "tiny/gpt", SSL_CERT_FILE=f"{WORK}/cert.pem")
    world.check_cache(folder, world.repository(), MODEL)
    # A folder of certificates; and what is not there is not taken for the system's.
    write(f"{WORK}/trusted/hub.pem", read(f"{WORK}/cert.pem"))
    subprocess.run(["openssl", "rehash", f"{WORK}/trusted"], check=True)
    assert world.fetch("model", "tiny/gpt", REQUESTS_CA_BUNDLE=f"{WORK}/trusted")[0] == folder
    _, error = world.fetch("model", "tiny/gpt", code=1, SSL_CERT_FILE=f"{WORK}/none.pem")
    assert f"{WORK}/none.pem" in error.splitlines()[0]
    # From https to http, where anyone could listen and answer.
    world = World(certificate=both)
    world.hub.elsewhere = world.hub.elsewhere.replace("https", "http")
    world.fetch("model", "tiny/gpt", code=1, says=["a redirect to 'http://localhost"], SSL_CERT_FILE=f"{WORK}/cert.pem")


@case
def redirects():
    world = World(loop=True)
    world.fetch("model", "tiny/gpt", code=1, says=["more than 8 redirects"])


@case
def proxy():
    world = World()
    folder, _ = world.fetch("model", "tiny/gpt", "--include", "*.json", HF_ENDPOINT="http://hub.invalid",
                            http_proxy=world.hub.endpoint, no_proxy="")
    world.check_cache(folder, world.repository(), ["config.json", "tokenizer.json"])


@case
def missing():
    world = World()
    world.fetch("model", "tiny/gtp", code=1, says=["no model 'tiny/gtp'", "no token was sent"])
    world.fetch("model", "tiny/gpt", "--revision", "mian", code=1, says=["no revision 'mian'", "Did you mean main?"])
    world.fetch("model", "../gpt", code=1, says=["cannot be the name"])
    world.fetch("model", "tiny/gpt", "--revision", "../x", code=1, says=["--revision"])
    world.hub.stop()
    world.fetch("model", "tiny/gpt", code=1, says=["cannot be had from", world.hub.endpoint])
    world.fetch("model", "tiny/gpt", code=1, says=["HF_ENDPOINT"], HF_ENDPOINT="huggingface.co")


@case
def unsafe_names():
    for path in ("../evil.txt", "/tmp/ridgeline_evil.txt", "a/../../evil.txt", "a//b", ".", "evil\0.txt", "evil\n.txt"):
        world = World(tree=[{"type": "file", "oid": "0" * 40, "size": 4, "path": path}])
        world.fetch("model", "tiny/gpt", "--include", "*", code=1, says=["no path inside a folder"])
        world.fetch("model", "tiny/gpt", "--include", "*", "--out", "out", code=1, says=["no path inside a folder"])
        found = [name for _, _, names in os.walk(world.folder) for name in names if "evil" in name]
        assert not found and not os.path.exists("/tmp/ridgeline_evil.txt"), found


@case
def untrue_sizes():
    """More bytes than can be counted, each file of a size that one may have."""
    files = [{"type": "file", "oid": f"{i:040x}", "size": 1 << 50, "path": f"{i}.txt"} for i in range(8200)]
    world = World(tree=files, page=9000)
    for out in ([], ["--out", "out"]):
        world.fetch("model", "tiny/gpt", "--include", "*", *out, code=1, says=["more bytes than any disk"])


@case
def refused():
    """The hub's own reason is shown, without what would speak to the terminal."""
    world = World(refuse="Access to this resource is disabled.")
    _, error = world.fetch("model", "tiny/gpt", code=1, says=["403 Forbidden (Access to this resource is disabled.?[2J)"])
    assert "\x1b" not in error


@case
def offline():
    world = World()
    folder, _ = world.fetch("model", "tiny/gpt")
    world.hub.stop()
    again, _ = world.fetch("model", "tiny/gpt", HF_HUB_OFFLINE="1")
    assert again == folder
    again, _ = world.fetch("model", "tiny/gpt", "--revision", world.repository().commit, HF_HUB_OFFLINE="1")
    assert again == folder
    world.fetch("model", "tiny/other", code=1, says=["HF_HUB_OFFLINE is set", "tiny/other"], HF_HUB_OFFLINE="1")
    # A snapshot of which something is gone is not whole.
    os.remove(os.path.realpath(f"{folder}/model.safetensors"))
    world.fetch("model", "tiny/gpt", code=1, says=["has no weights"], HF_HUB_OFFLINE="1")
    world.fetch("model", "tiny/gpt", "--include", "*.safetensors", code=1, says=["--include"], HF_HUB_OFFLINE="1")
    # What a command fetched is all that the same command takes.
    world = World()
    some = ("model", "tiny/gpt", "--exclude", "*.safetensors")
    folder, _ = world.fetch(*some)
    world.hub.stop()
    assert world.fetch(*some, HF_HUB_OFFLINE="1")[0] == folder
    world.fetch("model", "tiny/gpt", code=1, says=["has no weights"], HF_HUB_OFFLINE="1")


@case
def two_processes():
    world = World(slow=0.02)
    both = [world.start("model", "tiny/gpt") for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    print(said)
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][0] == said[1][0]
    world.check_cache(said[0][0].strip(), world.repository(), MODEL)
    assert any("another process is fetching it" in error for _, error in said)
    assert world.hub.sent["model.safetensors"] == 6_300_000, world.hub.sent


@case
def kills():
    """SIGKILL at any moment: the next start goes on, and what it ends with is the same."""
    chance = random.Random(7)
    world = World(slow=0.01)
    kills, killed = int(os.environ.get("HUB_KILLS", "10")), 0
    for _ in range(kills):
        moment = world.sent() + chance.randrange(12_600_000 // kills)
        process = world.start("model", "tiny/gpt")
        while process.poll() is None and world.sent() < moment:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        if process.returncode != 0:
            assert not os.path.exists(f"{world.home}/hub/models--tiny--gpt/refs/main") or not killed
        print("ended with", process.returncode, "after", world.sent(), "bytes")
    folder, _ = world.fetch("model", "tiny/gpt")
    world.check_cache(folder, world.repository(), MODEL)
    assert killed >= kills / 2
    # What is lost was on its way when the process ended: in the buffers of eight connections.
    assert world.sent() < 6_300_000 + killed * 8 * 500_000, world.hub.sent


@case
def another_host():
    """What a host left is gone on with by another, which tells its own parts by their names."""
    for out in ([], ["--out", "there"]):
        world = World(slow=0.01)
        process = world.start("model", "tiny/gpt", *out)
        while process.poll() is None and world.sent() < 3_000_000:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        parts = f"{world.folder}/there/.cache/huggingface/download" if out else f"{world.home}/hub/models--tiny--gpt/blobs"
        for name in os.listdir(parts):
            if name.endswith(".ridgeline.incomplete"):
                content, _, rest = name.rpartition(".ridgeline.incomplete")[0].rpartition(".")
                assert len(rest) == 8, name
                os.rename(f"{parts}/{name}", f"{parts}/{content}.00c0ffee.ridgeline.incomplete")
        before = world.sent()
        folder, _ = world.fetch("model", "tiny/gpt", *out, says=["model.safetensors: goes on with", "that another host left"])
        if out:
            assert read(f"{world.folder}/there/model.safetensors") == world.repository().files["model.safetensors"]
            assert not os.path.exists(f"{world.folder}/there/.cache"), "parts were left"
        else:
            world.check_cache(folder, world.repository(), MODEL)
        # What is lost was on its way when the process ended: in the buffers of eight connections.
        assert before > 2_000_000 and world.sent() < 6_300_000 + 8 * 300_000, (before, world.sent())


@case
def full_disk():
    world = World()
    if os.geteuid() != 0 or subprocess.call(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL) != 0:
        skip("needs root (a small file system is mounted)")
    os.makedirs(f"{world.folder}/small")
    mount = f"mount -t tmpfs -o size=2m none {world.folder}/small && exec {PROGRAM} fetch model tiny/gpt"
    done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", mount], text=True,
                          stderr=subprocess.PIPE, env={**world.environment, "HF_HOME": f"{world.folder}/small"})
    print(done.stderr)
    if "mount:" in done.stderr:
        skip("cannot mount a file system here")
    assert done.returncode == 1 and "6.3 MB are still to be fetched" in done.stderr and "has room for 2.1 MB" in done.stderr
    assert not world.asked_for("model.safetensors"), "it began all the same"


@case
def read_only():
    """A shared cache that this user cannot write: what is there whole is found, by its branch, too."""
    world = World()
    folder, _ = world.fetch("model", "tiny/gpt")
    if os.geteuid() != 0 or subprocess.call(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL) != 0:
        skip("needs root (the cache is mounted without leave to write)")
    mounts = f"mount --bind {world.home} {world.home} && mount -o remount,ro,bind {world.home}"
    for more in ("", "--revision " + world.repository().commit):
        command = f"{mounts} && ! touch {world.home}/x 2>/dev/null && exec {PROGRAM} fetch model tiny/gpt {more}"
        done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", command], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=world.environment)
        print(done.stderr)
        if "mount:" in done.stderr:
            skip("cannot mount a file system here")
        assert done.returncode == 0 and done.stdout.strip() == folder


def client_python():
    """A Python with huggingface_hub."""
    if os.environ.get("RIDGELINE_HUB_CLIENT"):
        return os.environ["RIDGELINE_HUB_CLIENT"]
    place = os.path.join(os.path.dirname(os.path.abspath(PROGRAM)), "hub-client")
    python = f"{place}/bin/python"
    if subprocess.call([python, "-c", "import huggingface_hub"], stderr=subprocess.DEVNULL) if os.path.exists(python) else 1:
        shutil.rmtree(place, ignore_errors=True)
        install = [python, "-m", "pip", "install", "-q", "--retries", "1", "--timeout", "10", "huggingface_hub"]
        for command in ([sys.executable, "-m", "venv", place], install):
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240)
            if done.returncode:
                skip("huggingface_hub cannot be installed here: " + (done.stdout.strip().splitlines() or ["?"])[-1])
    return python


@case
def other_client():
    """huggingface_hub finds what the program fetched, and the program what huggingface_hub fetched."""
    python = client_python()

    def ask(world, text, **environment):
        done = subprocess.run([python, "-c", "import huggingface_hub as h; " + text], text=True, stdout=subprocess.PIPE,
                              env={**world.environment, "HF_HUB_DISABLE_XET": "1", **environment}, timeout=120)
        assert done.returncode == 0, text
        return done.stdout.strip()

    world = World()
    folder, _ = world.fetch("model", "tiny/gpt")
    world.hub.asked.clear()
    assert ask(world, "print(h.snapshot_download('tiny/gpt'))", HF_HUB_OFFLINE="1") == folder
    single = ask(world, "print(h.hf_hub_download('tiny/gpt', 'model.safetensors'))", HF_HUB_OFFLINE="1")
    assert single == f"{folder}/model.safetensors"
    assert not world.hub.asked, "offline is not offline"
    assert ask(world, "print(h.hf_hub_download('tiny/gpt', 'model.safetensors'))") == single
    assert not world.asked_for("model.safetensors", "elsewhere"), "it was fetched again"
    cached = "print(sum(len(r.files) for repo in h.scan_cache_dir().repos for r in repo.revisions), h.scan_cache_dir().warnings)"
    assert ask(world, cached) == f"{len(MODEL)} []"

    world = World()
    patterns = "['*.json', '*.txt', '*.safetensors']"
    folder = ask(world, f"print(h.snapshot_download('tiny/gpt', allow_patterns={patterns}))")
    world.hub.asked.clear()
    assert world.fetch("model", "tiny/gpt", says=["there already"])[0] == folder
    assert world.fetch("model", "tiny/gpt", HF_HUB_OFFLINE="1")[0] == folder
    assert not world.asked_for("model.safetensors") and not world.asked_for("config.json")
    # The list of files that it keeps says what is missing, and that nothing is.
    os.remove(os.path.realpath(f"{folder}/merges.txt"))
    world.fetch("model", "tiny/gpt", code=1, says=["no 'merges.txt' of"], HF_HUB_OFFLINE="1")
    pinned = ("model", "tiny/gpt", "--revision", world.repository().commit)
    assert world.fetch(*pinned)[0] == folder
    world.hub.stop()
    assert world.fetch(*pinned, says=["there already"])[0] == folder, "a commit that is there needs no network"


@case
def nginx():
    """A server that others wrote, with static files: names, JSON and redirects of the hub."""
    if not shutil.which("nginx"):
        skip("nginx is not installed")
    world = World()
    repository, top = world.repository(), f"{world.folder}/nginx"
    for path, content in repository.files.items():
        write(f"{top}/files/{path}", content)
        write(f"{top}/heads/{path}", repository.etag(path))
    write(f"{top}/www/api/models/tiny/gpt/revision/main", json.dumps(repository.info()))
    write(f"{top}/www/api/models/tiny/gpt/tree/{repository.commit}",
          json.dumps([repository.entry(path) for path in repository.files]))
    port, other = random.randrange(20000, 30000), random.randrange(30000, 32000)
    write(f"{top}/nginx.conf", f"""
daemon off; master_process off; pid {top}/pid; error_log {top}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {top}; proxy_temp_path {top}; fastcgi_temp_path {top}; uwsgi_temp_path {top};
  scgi_temp_path {top};
  server {{
    listen 127.0.0.1:{port};
    root {top}/www;
    location ~ ^/tiny/gpt/resolve/{repository.commit}/(.*\\.(safetensors|bin|msgpack|onnx))$ {{
      return 302 http://localhost:{other}/$1?signature=1;
    }}
    location ~ ^/tiny/gpt/resolve/{repository.commit}/(.*)$ {{ alias {top}/files/$1; }}
  }}
  server {{ listen 127.0.0.1:{other}; root {top}/files; }}
}}
""")
    server = subprocess.Popen(["nginx", "-c", f"{top}/nginx.conf", "-p", top, "-e", f"{top}/error.log"],
                              stderr=subprocess.PIPE)
    try:
        time.sleep(0.5)
        if server.poll() is not None:
            skip("nginx does not start here: " + server.stderr.read().decode())
        folder, _ = world.fetch("model", "tiny/gpt", HF_ENDPOINT=f"http://127.0.0.1:{port}/")
        world.check_cache(folder, repository, MODEL)
    finally:
        server.terminate()
        server.wait()


def main():
    global PROGRAM, WORK
    if sys.argv[1:] == ["--list"]:
        print("\n".join(CASES))
        return
    PROGRAM, name = os.path.abspath(sys.argv[1]), sys.argv[2]
    if name not in CASES:
        sys.exit(f"no case '{name}' (cases: {' '.join(CASES)})")
    WORK = tempfile.mkdtemp(prefix="hub-")
    try:
        CASES[name]()
    finally:
        shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    main()
