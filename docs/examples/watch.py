"""Print what arrives: `python watch.py URL`, with the package `websockets` installed."""

import sys

from websockets.sync.client import connect

with connect(sys.argv[1]) as websocket:
    for message in websocket:
        print(message, flush=True)
