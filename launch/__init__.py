"""The command line: `cardiojax VERB`, or `python -m launch VERB`. A module a verb; the work is done in cardiojax."""
