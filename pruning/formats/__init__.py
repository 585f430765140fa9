"""Models and data in, results out. What comes in is read as data: nothing here unpickles or runs what a file holds."""
