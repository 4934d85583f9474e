"""What a planner sees: shared types, the camera rig, observations, patches and the vision tower."""
