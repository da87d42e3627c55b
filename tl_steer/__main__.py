"""`python -m tl_steer`."""

from tl_steer.cli import main

if __name__ == "__main__":
    main()
