"""rosbag2 files: write, read, repair; episodes and transitions."""
