"""The agent: works on one storage host, for the coordinator."""

import os

# gRPC's core writes lines of its own to standard error, which are no JSON, beside the error that it
# raises. It asks when it is loaded; whoever wants them sets the variable: error, info, debug.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
