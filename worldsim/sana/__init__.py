"""SANA-WM (arXiv 2605.15178) as a closed-loop world: a recurrent-state video model.

Import the modules, not the package.
"""
