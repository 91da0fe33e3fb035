"""The yardstick: Tornado that parses a JSON body and answers 201, and does nothing else."""

import asyncio
import json
import sys

import tornado.httpserver
import tornado.netutil
import tornado.web


class Leads(tornado.web.RequestHandler):
    """Request handler that stores nothing."""

    count = 0

    def post(self) -> None:
        """Answer as the server does."""
        assert json.loads(self.request.body)["tour_request"]
        Leads.count += 1
        self.set_status(201)
        self.write({"id": Leads.count})


async def main() -> None:
    """Serve until the process is ended. The first line of output has the URL."""
    server = tornado.httpserver.HTTPServer(tornado.web.Application([("/api/v1/website_leads", Leads)]))
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1", backlog=1024)
    server.add_sockets(sockets)
    print(f"at http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
