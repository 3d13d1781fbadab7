"""The simulated robot: scene, tasks, cameras, scripted operator."""
