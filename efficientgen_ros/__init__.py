"""ROS 2 nodes, bring-up and the command line of efficientgen."""
