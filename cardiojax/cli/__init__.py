"""The command line: `cardiojax VERB`, or `python -m cardiojax VERB`. A module a verb; the work is done in cardiojax."""
