"""`python -m launch VERB …` is `cardiojax VERB …`."""

import sys

from launch.cli import main

sys.exit(main())
