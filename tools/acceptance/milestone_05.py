"""What real use showed: a row per line, with what was wrong and what is now. The cases are those of tests/field."""
import re
import shutil

from acceptance import measure
from acceptance.measure import ROOT, ctest, program, row, run

# Lines whose test is not a case of tests/field: name, what was wrong, a pattern of ctest names.
BESIDE_THEIR_ROOM = [
    ("tokenizer_in_old_checkpoints", "special tokens were no part of a checkpoint; those of before stay readable", "train_test"),
    ("gpt_neox_tokenizer", "GPT-NeoX's published tokenizer.json was refused (NFC, 13 bytes missing)", "data_test"),
    ("order_split_table", "data.split differed from Megatron-LM of today in 220 of 1,026 combinations of shares and counts", "data_test"),
    ("order_of_old_checkpoints", "no checkpoint said in which order of which data its run was", "train_test"),
    ("tied_head_of_four_families", "a tied model with two matrices lost its head silently, whatever the family", "train_test"),
    ("activation_of_every_option", "an activation that is neither tanh-GELU nor SwiGLU trained as erf-GELU", "model_test|train_config_test"),
    ("old_manifests", "a new option of a model made every older checkpoint unreadable", "train_test"),
    ("threads_under_sanitizers", "memory was planned for one thread and used by two", "test_train"),
    ("old_team_size_turns_red", "nothing noticed a team that memory was not planned for", "test_mutations"),
    ("machine_is_read_once", "processors were counted again after a thread had been bound to one", "device_test"),
    ("workspaces_are_checked", "operators trusted the size of the workspace that they were lent", "ops_test"),
    ("threads_that_cannot_start", "a thread that could not start ended in `terminate called`", "device_test|comm_test"),
    ("every_key_every_extreme", "extreme values of keys aborted, hung, wrapped around, or blamed another key", "train_test"),
    ("agreement_is_bounded", "nothing compared what ranks were started with", "train_test"),
    ("lock_on_any_file_system", "nothing kept two writers apart, with or without locks of the file system", "base_test"),
]


def field_case(script, name):
    result = run([str(script), program(), shutil.which("mpiexec") or "none", name], check=False)
    if result.returncode == 77:
        return result.stdout.strip().splitlines()[-1], None
    failures = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
    now = [line.removeprefix("now: ") for line in result.stdout.splitlines() if line.startswith("now: ")]
    return "; ".join(failures or now) or f"exit {result.returncode}", result.returncode == 0


def rows():
    for script in sorted((ROOT / "tests/field").glob("field_*.sh")):
        for name, was in re.findall(r"^# was ([a-z0-9_]+): (.*)$", script.read_text(), re.M):
            row(f"{script.stem.removeprefix('field_')}_{name}", f"was: {was}", lambda script=script, name=name: field_case(script, name),
                f"ctest --test-dir build/release -R '^field_{name}$'")
    for name, was, pattern in BESIDE_THEIR_ROOM:
        row(name, f"was: {was}", lambda pattern=pattern: ctest(pattern), f"ctest --test-dir build/release -R '^({pattern})$'")
