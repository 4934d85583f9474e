"""Packaging: the library rooms under `efficientgen`, the ROS 2 nodes and the CLI under `efficientgen_ros`."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
ROOMS = ("perception", "planning", "worldsim", "eval")


def packages() -> list[str]:
    """Every package by name: the rooms are symlinks in `efficientgen/`, which finders do not follow."""
    names = ["efficientgen", "efficientgen.kernels"]
    for room in ROOMS:
        names += [f"efficientgen.{room}", *(f"efficientgen.{room}.{p}" for p in find_packages(str(HERE / room)))]
    return [
        *names,
        "efficientgen_ros",
        *(f"efficientgen_ros.{p}" for p in find_packages(str(HERE / "efficientgen_ros"))),
    ]


def shipped(*roots: str) -> list[tuple[str, list[str]]]:
    """`data_files` entries that keep the directory layout below share/efficientgen."""
    out: dict[str, list[str]] = {}
    for root in roots:
        for path in sorted((HERE / root).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                relative = path.relative_to(HERE)
                out.setdefault(f"share/efficientgen/{relative.parent}", []).append(str(relative))
    return list(out.items())


NODES = ("world", "planner", "vehicle", "safety", "recorder", "answerer", "foreign_planner")

setup(
    name="efficientgen",
    version="0.1.0",
    description="Block-diffusion driving planners in closed loop over ROS 2",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=packages(),
    package_data={"efficientgen": ["py.typed"], "efficientgen.eval": ["page/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/efficientgen"]),
        ("share/efficientgen", ["package.xml"]),
        *shipped("launch", "scenarios", "checkpoints"),
    ],
    install_requires=["numpy", "torch", "safetensors", "tokenizers", "pillow", "PyYAML", "typer", "rich"],
    extras_require={
        "record": ["mcap", "rosbags"],
        "live": ["foxglove-sdk"],
        "sim": ["panda3d", "libsumo", "sumolib", "av", "matplotlib"],
        "sweep": ["ray", "pyarrow==23.*", "fsspec"],  # libsumo 1.28 links against Arrow 23
        # What the readers need; they themselves go in with --no-deps (requirements-devkits.txt).
        "eval-nuscenes": ["opencv-python-headless", "shapely", "pyquaternion", "descartes", "scikit-learn", "tqdm"],
        "eval-wod": ["crc32c", "protobuf>=3.20"],
        "qwen": ["tiktoken"],  # reads Qwen's rank file, which `pip install --no-deps dashscope` brings
        "sana": ["diffusers>=0.42", "transformers"],
        "ros-wheels": ["ros-kilted-rclpy", "ros-kilted-rmw-fastrtps-cpp"],
    },
    entry_points={
        "console_scripts": [
            "efficientgen = efficientgen_ros.cli:main",
            *(f"{node}_node = efficientgen_ros.{node}_node:main" for node in NODES),
        ]
    },
)
