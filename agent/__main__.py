"""`firedoor-agent`: run the endpoint, show its status, fetch a release, or guard a start."""

import sys


def main() -> int:
    """Run the program; the exit code."""
    # The command stands first or after `--config FILE`, never where a release or a folder may.
    if "guard" in {*sys.argv[1:2], *sys.argv[3:4]}:
        # The guard needs the standard library alone, whatever is broken in the rest.
        from agent.guard.guard import main as guard  # noqa: PLC0415  # as said above

        words = sys.argv[1:]
        words.remove("guard")
        return guard(words)
    from agent.program import main as run  # noqa: PLC0415  # as said above

    return run()


if __name__ == "__main__":
    sys.exit(main())
