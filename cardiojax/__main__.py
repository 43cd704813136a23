"""`python -m cardiojax VERB …` is `cardiojax VERB …`."""

import sys

from cardiojax.cli.main import main

sys.exit(main())
