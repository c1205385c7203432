"""`python -m trionotify`."""

from trionotify.cli.main import main

if __name__ == "__main__":
    main(prog_name="python -m trionotify", complete_var="_TRIONOTIFY_COMPLETE")
