"""Command line of the stages: `python -m dex_rl_nodes.stages COMMAND [name:=value ...]`."""

import sys

from dex_rl_nodes.stages.command import main

sys.exit(main(sys.argv[1:]))
