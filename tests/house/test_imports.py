"""The house rules that a machine can check: import direction, no `kernels/__init__`, links, names, leanness."""

import ast
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "kernels": set(),
    "perception": {"kernels"},
    "planning": {"perception", "kernels"},
    "worldsim": {"perception", "kernels"},
    "eval": {"perception", "planning", "worldsim", "kernels"},
}
ROOMS = tuple(MAY_IMPORT)
HEAVY = ("torch", "libsumo", "sumolib", "panda3d", "av", "matplotlib", "rclpy", "transformers", "ray", "pyarrow")


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every absolute module name that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_downwards_only_and_never_ros(room):
    for path in modules(room):
        for name in imported(path):
            top, _, rest = name.partition(".")
            assert top not in (*ROOMS, "rclpy", "efficientgen_ros"), f"{path} imports {name}"
            if top == "efficientgen" and rest.split(".")[0] in ROOMS:
                assert rest.split(".")[0] in MAY_IMPORT[room] | {room}, f"{path} imports {name}"


def test_kernels_has_no_init():
    assert not (ROOT / "kernels" / "__init__.py").exists()


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_are_linked_into_the_package(room):
    link = ROOT / "efficientgen" / room
    assert link.is_symlink() and link.resolve() == ROOT / room


def test_package_inits_load_nothing_heavy():
    code = "import sys\n" + "".join(f"import efficientgen.{r}\n" for r in ROOMS) + "print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not set(HEAVY) & set(loaded.split())


def test_setup_lists_every_package():
    sys.path.insert(0, str(ROOT))
    try:
        text = (ROOT / "setup.py").read_text().split("NODES =")[0].replace("__file__", repr(str(ROOT / "setup.py")))
        scope: dict = {}
        exec(compile(text, "setup.py", "exec"), scope)
    finally:
        sys.path.remove(str(ROOT))
    listed = set(scope["packages"]())
    for room in ROOMS[1:]:
        for init in (ROOT / room).rglob("__init__.py"):
            assert ".".join(["efficientgen", *init.parent.relative_to(ROOT).parts]) in listed


def test_no_file_grows_past_its_one_reason():
    long = {str(p.relative_to(ROOT)): n for r in (*ROOMS, "efficientgen_ros") for p in modules(r)
            if (n := len(p.read_text().splitlines())) > 450}  # fmt: skip
    assert not long


def test_package_xml_names_every_ros_package_that_is_imported():
    declared = {element.text for element in ElementTree.parse(ROOT / "package.xml").iter("exec_depend")}
    paths = [*modules("efficientgen_ros"), *(ROOT / "launch").glob("*.py")]
    tops = {name.partition(".")[0] for path in paths for name in imported(path)}
    ros = {top for top in tops if top in ("rclpy", "launch", "launch_ros") or top.endswith(("_msgs", "_interfaces"))}
    assert ros and ros <= declared
