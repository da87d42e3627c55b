"""Side doors: other programs' file formats."""
