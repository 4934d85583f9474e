"""What a compiled kernel asks of a chip, by the assembler that Triton ships."""

import re
import subprocess
import tempfile
from pathlib import Path

import triton


def resources(ptx: str) -> tuple[int, int]:
    """Bytes that a thread spills (stores and loads) and its registers."""
    target = re.search(r"\.target (sm_(\d+)\w*)", ptx)
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    ptxas = folder / ("ptxas-blackwell" if int(target[2]) >= 100 else "ptxas")
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        done = subprocess.run([str(ptxas), "-v", f"--gpu-name={target[1]}", file.name, "-o", "/dev/null"],
                              capture_output=True, text=True, check=True)  # fmt: skip
    spills = re.findall(r"(\d+) bytes spill", done.stderr)
    return sum(map(int, spills)), int(re.search(r"Used (\d+) registers", done.stderr)[1])
