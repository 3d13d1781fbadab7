"""ROS plumbing: one file per node."""
