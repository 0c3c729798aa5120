import sys

from neonet_core.cli import main
from neonet_core.parent import end_with_parent

end_with_parent()
sys.exit(main())
