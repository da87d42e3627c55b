"""Other tools' formats, one file each. None is here yet.

May import every wing below.
"""
