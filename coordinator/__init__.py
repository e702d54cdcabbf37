"""The coordinator: holds workflows, and sees to it that each happens or leaves nothing behind."""

import os

# gRPC's core writes lines of its own to standard error, which are no JSON, beside the error that it
# raises. It asks when it is loaded; whoever wants them sets the variable: error, info, debug.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
