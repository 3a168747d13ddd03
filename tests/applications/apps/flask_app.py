"""Flask behind the sidecar, as docs/applications.md sets it up."""

from flask import Flask, jsonify, request
from werkzeug.middleware.proxy_fix import ProxyFix

app = Flask(__name__)
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=2, x_proto=1, x_host=1)  # the sidecar, and one proxy in front of it


@app.get("/whoami")
def whoami():
    return jsonify(client=request.remote_addr, scheme=request.scheme, host=request.host)


@app.post("/length")
def length():
    return jsonify(bytes=len(request.get_data()))


@app.get("/bytes/<int:size>")
def content(size):
    return bytes(size)
