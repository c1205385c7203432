"""uWebSockets, in C++, through socketify: its own publish and subscribe.

`deflate` compresses with its shared compressor; `tls CERT KEY` encrypts.
"""

import sys

from socketify import App, AppOptions, CompressOptions, OpCode

how, *files = sys.argv[1:] or ["plain"]
deflate = how == "deflate"
app = App(AppOptions(cert_file_name=files[0], key_file_name=files[1])) if how == "tls" else App()
NO_LIMITS = {
    "compression": CompressOptions.SHARED_COMPRESSOR if deflate else CompressOptions.DISABLED,
    "max_payload_length": 1 << 24,
    "max_backpressure": 1 << 24,
    "idle_timeout": 0,
}


def post(response, request) -> None:
    chunks = []

    def take(response, chunk, last) -> None:
        chunks.append(chunk or b"")
        if last:
            app.publish("all", b"".join(chunks), OpCode.TEXT)
            response.write_status(202).end("")

    response.on_aborted(lambda response: None)
    response.on_data(take)


app.post("/events", post)
app.ws(
    "/publish",
    {**NO_LIMITS, "message": lambda ws, message, kind: app.publish("all", message, kind, deflate)},
)
app.ws("/", {**NO_LIMITS, "open": lambda ws: ws.subscribe("all")})
app.listen({"host": "127.0.0.1", "port": 0}, lambda config: print(config.port, flush=True))
app.run()
