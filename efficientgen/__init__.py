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

    Looked for in `$EFFICIENTGEN_SHARE`, the checkout this package is imported from, then `share/efficientgen` of the
    Python installation, of the prefix that the package lies in, and of each prefix in `$AMENT_PREFIX_PATH`.

    Raises:
        MissingDataError: none of them holds `name`.
    """
    package = Path(__file__).resolve().parent
    prefixes = [Path(sys.prefix), *package.parents[3:4]]  # <prefix>/lib/pythonX.Y/site-packages/efficientgen
    prefixes += [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    roots = [package.parent, *dict.fromkeys(prefix / "share" / "efficientgen" for prefix in prefixes)]
    if "EFFICIENTGEN_SHARE" in os.environ:
        roots.insert(0, Path(os.environ["EFFICIENTGEN_SHARE"]))
    for root in roots:
        if (root / name).exists():
            return root / name
    raise MissingDataError(
        f"efficientgen ships '{name}', but it is in none of {', '.join(map(str, roots))}; "
        "set EFFICIENTGEN_SHARE to the directory of a checkout"
    )
