"""What the viewer shows of a user's files and networks: functions that return a `viz.display.Display`."""
