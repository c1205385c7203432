"""uWebSockets, in C++, through socketify: its own publish and subscribe."""

from socketify import App, CompressOptions

app = App()
NO_LIMITS = {
    "compression": CompressOptions.DISABLED,
    "max_payload_length": 1 << 24,
    "max_backpressure": 1 << 24,
    "idle_timeout": 0,
}
app.ws("/publish", {**NO_LIMITS, "message": lambda ws, message, kind: app.publish("all", message, kind)})
app.ws("/", {**NO_LIMITS, "open": lambda ws: ws.subscribe("all")})
app.listen({"host": "127.0.0.1", "port": 0}, lambda config: print(config.port, flush=True))
app.run()
