"""The prober as a file, for programs that are run as some user."""

from clawai.sandbox.probe import main

if __name__ == "__main__":
    main()
