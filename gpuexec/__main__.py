"""``python -m gpuexec`` does the same as the ``gpuexec`` command."""

from gpuexec.cli import main

if __name__ == "__main__":
    main()
