"""The reference world: a town built from a SUMO net, drawn by Panda3D.  Import the modules, not the package."""
