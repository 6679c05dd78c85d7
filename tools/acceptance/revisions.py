"""Programs of other revisions, built beside this tree to be compared with it."""
import os
import subprocess
from pathlib import Path

# The last one before the engine was redesigned to carry stages, slices and places.
BASE = "32e0b18"
ROOT = Path(__file__).resolve().parent.parent.parent


def build(folder):
    environment = {**os.environ, "CCACHE_BASEDIR": str(folder), "CCACHE_NOHASHDIR": "1"}
    for command in (["cmake", "--preset", "release", "-DRIDGELINE_TESTS=OFF", "-Wno-dev", "--log-level=WARNING"],
                    ["cmake", "--build", "build/release", "--target", "ridgeline"]):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=environment)


def program_of(revision):
    """Its ridgeline, built in build/revisions once."""
    commit = subprocess.run(["git", "rev-parse", f"{revision}^{{commit}}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    folder = ROOT / "build/revisions" / commit[:12]
    program = folder / "build/release/ridgeline"
    if not program.exists():
        if not folder.exists():
            subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)
            subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(folder), commit], cwd=ROOT, check=True)
        build(folder)
    return program


def program_of_tree(folder):
    """This tree's, as it was last built; built where it is missing."""
    if not (folder / "ridgeline").exists():
        build(ROOT)
    return (folder / "ridgeline").resolve()
