"""Names of environment variables that starter and nodes agree on; a module without ROS."""

PARENT_VARIABLE = "EFFICIENTGEN_PARENT_PID"
"""Set by `bringup`: a node whose parent process is no longer this one leaves by itself."""
