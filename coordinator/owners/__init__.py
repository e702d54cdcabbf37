"""The owners of external tasks: what waits for them, and what is heard of them.

owners      what waits for whom, who watches, and what comes of silence
silence     how long nothing has been heard, and since when that counts
reported    progress that owners report, written in batches
tokens      what proves the right to report on a task
routing     an order's way to a host's line, or to its owner
"""
