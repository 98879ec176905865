"""Break each guarantee by hand and see its test turn red: `make break`.

Each entry changes one line of the code in a copy of the tree and runs the test that docs/architecture.md names for the
guarantee. A test that stays green is no test of it.
"""

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("allocators", "config", "docs", "qguard", "scripts", "tests", "README.md", "pyproject.toml")


@dataclass(frozen=True)
class Break:
    """One line that a guarantee hangs on, and what it is changed to."""

    guarantee: str
    file: str
    old: str
    new: str
    test: str


BREAKS = (
    Break(
        "I1", "allocators/budget.py", " - request.outside - reserve", " - request.outside", "properties/test_i01_cap.py"
    ),
    Break("I1", "allocators/budget.py", " - request.outside - reserve", " - reserve", "properties/test_i01_cap.py"),
    Break("I2", "allocators/budget.py", "smallest + extra", "extra", "properties/test_i02_never_open.py"),
    Break(
        "I2",
        "qguard/qbittorrent/client.py",
        "if not (type(limit) is int and",
        "if False and not (type(limit) is int and",
        "properties/test_i02_never_open.py",
    ),
    Break(
        "I3",
        "qguard/plan.py",
        "height(new), raised))",
        "height(new), ~raised))",
        "properties/test_i03_down_before_up.py",
    ),
    Break(
        "I4",
        "qguard/cycle.py",
        "    action = await record(",
        "    await apply(world.client, decision.reading.torrents, decision.planned.plan)\n    action = await record(",
        "faults/test_i04_ledger_first.py",
    ),
    Break(
        "I5",
        "qguard/ledger/claims.py",
        "    if before.original is None:\n",
        "    if True:\n",
        "faults/test_i05_true_originals.py",
    ),
    Break(
        "I6",
        "qguard/observe.py",
        "    if len(listed) and not hard_to_believe:",
        "    if True:",
        "faults/test_i06_no_data_no_change.py",
    ),
    Break(
        "I7",
        "qguard/loop.py",
        "Basis(self.world, self._memory, self.policy()",
        "Basis(self.world, Memory(), self.policy()",
        "swarm/test_i07_preview_is_truth.py",
    ),
    Break(
        "I8",
        "qguard/service.py",
        '                self.note("configuration", words)\n',
        "                pass\n",
        "faults/test_i08_configuration.py",
    ),
    Break(
        "I9",
        "qguard/redact.py",
        '        """`text` with every secret hidden."""\n',
        '        """`text` with every secret hidden."""\n        return text\n',
        "faults/test_i09_secrets.py",
    ),
    Break(
        "I10",
        "qguard/decision.py",
        "policy.manage[matched.rule] & ~matched.own.held",
        "policy.manage[matched.rule] & ~matched.own.held & matched.in_rollout",
        "properties/test_i10_rollout.py",
    ),
    Break(
        "I10",
        "qguard/decision.py",
        "leaves = own.claimed & writable & ~managed",
        "leaves = own.claimed & False",
        "properties/test_i10_rollout.py",
    ),
    Break(
        "I11",
        "qguard/decision.py",
        "        reading.torrents.up_limit,\n        wanted,\n",
        "        np.zeros_like(wanted),\n        wanted,\n",
        "properties/test_i11_idempotent.py",
    ),
    Break(
        "I12",
        "qguard/decision.py",
        "np.where(original == UNLIMITED, ceiling, np.minimum(ceiling, original))",
        "ceiling",
        "properties/test_i12_yours.py",
    ),
)


def _environment(folder: Path) -> Path:
    """A virtual environment that runs the copy, in processes that the tests start too, with the packages of ours."""
    venv.create(folder / ".venv", with_pip=False)
    ours = sysconfig.get_path("purelib")
    theirs = next((folder / ".venv" / "lib").glob("python*/site-packages"))
    # Plain paths: the .pth file by which our own environment finds this very tree is not read.
    (theirs / "copy.pth").write_text(f"{folder}\n{ours}\n")
    command = folder / ".venv" / "bin" / "qguard"
    python = command.with_name("python")
    command.write_text(f"#!{python}\nfrom qguard.cli import main\nmain()\n")
    command.chmod(0o755)
    return python


def turns_red(broken: Break, folder: Path) -> bool:
    """Whether the test fails in a copy of the tree with that line changed."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "data"))
        else:
            shutil.copy(source, folder / name)
    python = _environment(folder)
    path = folder / broken.file
    text = path.read_text()
    if text.count(broken.old) != 1:
        raise SystemExit(
            f"{broken.file} holds {broken.old!r} {text.count(broken.old)} times, not once: adapt this script"
        )
    path.write_text(text.replace(broken.old, broken.new))
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{broken.test}"],
        cwd=folder,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 1}:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-2000:])
    return done.returncode == 1


def main() -> None:
    """Break what is asked for, or everything; exit 1 when a test stays green."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("guarantees", nargs="*", help="I1 to I12; all when none is named")
    wanted = parser.parse_args().guarantees
    green = 0
    for broken in BREAKS:
        if wanted and broken.guarantee not in wanted:
            continue
        with tempfile.TemporaryDirectory(prefix="qguard-break-") as folder:
            red = turns_red(broken, Path(folder))
        green += not red
        print(f"{broken.guarantee:4} {'red  ' if red else 'GREEN'} {broken.test:45} {broken.file}", flush=True)
    sys.exit(1 if green else 0)


if __name__ == "__main__":
    main()
