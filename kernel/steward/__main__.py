"""A steward in place of one that died: ``python -m clawai.kernel.steward FD``."""

import os
import socket
import sys

from clawai.kernel.steward.main import become

become(socket.socket(fileno=int(sys.argv[1])), os.getppid())
