"""The nano world: SANA-WM's transformer at nano size, trained by this repository.

Import the modules, not the package.
"""
