// Express behind the sidecar, as docs/applications.md sets it up.
const express = require("express");
const app = express();
app.set("trust proxy", "loopback");
app.get("/whoami", (request, response) => response.json({client: request.ip, scheme: request.protocol, host: request.host}));
app.post("/length", express.raw({type: () => true}), (request, response) => response.json({bytes: request.body.length}));
const server = app.listen(Number(process.env.PORT || 9000), "127.0.0.1");
server.keepAliveTimeout = 75_000;
