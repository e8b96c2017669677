"""`python -m pgrecall`: the same as the command `pgrecall`."""

import sys

from pgrecall.cli.main import main

sys.exit(main())
