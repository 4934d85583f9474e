"""efficientgen: block-diffusion driving planners in closed loop over ROS 2.

The library rooms (`kernels`, `perception`, `planning`, `worldsim`, `eval`) live at the top of the repository and are
reached only through this package (`efficientgen.planning`, never `planning`): relative symlinks make both the
checkout and the installed package import the same way.  `share` finds the data that ships beside the code.
"""

import os
import sys
from pathlib import Path

__version__ = "0.1.0"


class MissingDataError(FileNotFoundError):
    """A file or directory that ships with efficientgen is not where any install puts it."""


def share(name: str) -> Path:
    """Path of a shipped directory or file: `checkpoints`, `scenarios`, `launch`, or something inside them.

    Looked for in `$EFFICIENTGEN_SHARE`, the checkout this package is imported from, then `<prefix>/share/efficientgen`.

    Raises:
        MissingDataError: none of them holds `name`.
    """
    roots = [Path(__file__).resolve().parent.parent, Path(sys.prefix) / "share" / "efficientgen"]
    if "EFFICIENTGEN_SHARE" in os.environ:
        roots.insert(0, Path(os.environ["EFFICIENTGEN_SHARE"]))
    for root in roots:
        if (root / name).exists():
            return root / name
    raise MissingDataError(
        f"efficientgen ships '{name}', but it is in none of {', '.join(map(str, roots))}; "
        "set EFFICIENTGEN_SHARE to the directory of a checkout"
    )
