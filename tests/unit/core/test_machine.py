"""What the machine offers."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tezawari.core import machine, training

# Without huge pages, of which there are more or fewer to have as the machine has run: each counts as one fault.
_COUNT_FAULTS = """
import ctypes, resource, sys
import numpy as np
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE
from tezawari.core.machine import keep_freed_memory, return_large_blocks
if sys.argv[1] != "default":
    assert keep_freed_memory()
if sys.argv[1] == "return":
    assert return_large_blocks()
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(2**23)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(word: str) -> int:
    done = subprocess.run([sys.executable, "-c", _COUNT_FAULTS, word], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_large_blocks_are_kept() -> None:
    """Counted in page faults, in processes of their own, for the setting is the process's."""
    by_default = _faults("default")
    assert _faults("keep") < 0.1 * by_default
    assert _faults("return") > 0.5 * by_default


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("flags : fpu amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags : fpu avx512f avx2", False),
        ("model name : bf16 wonder\nflags : fpu", False),
    ],
)
def test_bf16_is_what_the_processor_says(
    text: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPU_INFO", info)
    assert machine.computes_bf16() is False
    info.write_text(f"processor : 0\n{text}\n")
    assert machine.computes_bf16() is known


@pytest.mark.parametrize(("precision", "warned"), [("bf16-mixed", True), ("32-true", False)])
def test_bfloat16_in_software_is_warned_of(
    precision: str, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "computes_bf16", lambda: False)
    training.require_device(OmegaConf.create({"trainer": {"accelerator": "cpu", "precision": precision}}))
    assert ("take trainer.precision=32-true" in capsys.readouterr().out) is warned
