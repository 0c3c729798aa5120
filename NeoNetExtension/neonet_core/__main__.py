import sys

from neonet_core.cli import main

sys.exit(main())
