"""Kills `prepare` again and again, starts it again, and compares what comes of it with the dataset that nobody killed.
kill_prepare.py RIDGELINE FOLDER ARGUMENTS…       FOLDER/corpus is prepared; FOLDER/whole.* is that dataset"""
import json
import pathlib
import random
import subprocess
import sys
import time

program, here, arguments = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
KILLS = 20
out, report, partial = here / "killed", here / "report.json", here / "killed.partial"
command = [program, *arguments, "--out", str(out), "--json", str(report), str(here / "corpus")]
whole = {suffix: (here / f"whole{suffix}").read_bytes() for suffix in (".bin", ".idx", ".json")}


def start():
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines():
    try:
        return (partial / "parts-0000").read_bytes().count(b"\n")
    except OSError:
        return 0


def check_result():
    for suffix, expected in whole.items():
        if out.with_suffix(suffix).read_bytes() != expected:
            sys.exit(f"other bytes in {suffix}")
        out.with_suffix(suffix).unlink()


# To its end; returns the report.
def finish():
    process = start()
    said = process.communicate()[1].decode()
    if process.returncode != 0:
        sys.exit(f"exit {process.returncode}: {said}")
    check_result()
    if partial.exists():
        sys.exit(f"left: {list(partial.iterdir())}")
    return json.loads(report.read_text())


random.seed(4)
begin = time.monotonic()
all_parts = finish()["parts"]
took = time.monotonic() - begin
kills = kept = too_late = 0
while kills < KILLS:
    process = start()
    # At any time, and right after a part was done.
    if kills % 2 == 0:
        time.sleep(random.uniform(0, took))
    else:
        before, limit = lines(), time.monotonic() + 20
        while process.poll() is None and lines() <= before and time.monotonic() < limit:
            time.sleep(0.001)
    process.kill()
    process.communicate()
    if process.returncode == 0:
        too_late += 1
        check_result()
        continue
    kills += 1
    if kills % 4 == 0:
        # Between two of the last renames the tokens are no more where the lines say.
        done = lines() if (partial / "tokens-0000").exists() else 0
        last = finish()
        kept += last["kept_parts"]
        if last["kept_parts"] != done:
            sys.exit(f"{last['kept_parts']} parts were kept of {done} that were done")
        if done and last["kept_documents"] == 0:
            sys.exit(f"no work was kept: {last}")
if kept == 0:
    sys.exit("no part was ever kept")
print(f"{kills} kills ({too_late} came too late): the bytes of no kill; {kept} of {KILLS // 4 * all_parts} parts were kept")
