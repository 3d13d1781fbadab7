"""What a command means: units, limits, kinematics, takeover, safety."""
