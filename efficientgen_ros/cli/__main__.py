"""`python -m efficientgen_ros.cli` is the same as `efficientgen`."""

from efficientgen_ros.cli import main

main()
