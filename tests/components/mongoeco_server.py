"""mongoeco_server.py PORT: a MongoDB-compatible server in memory, from the package mongoeco[wire].

The last choice of .ci/provision, for machines with neither a mongod nor Go; needs Python 3.13.
"""

import asyncio
import signal
import sys

from mongoeco.wire import AsyncMongoEcoProxyServer


async def main() -> None:
    server = AsyncMongoEcoProxyServer(engine=None, host="127.0.0.1", port=int(sys.argv[1]))
    await server.start()
    stopped = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopped.set)
    await stopped.wait()
    await server.close()


asyncio.run(main())
