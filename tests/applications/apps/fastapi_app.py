"""FastAPI behind the sidecar, as docs/applications.md sets it up."""

from fastapi import FastAPI, Request

app = FastAPI()


@app.get("/whoami")
async def whoami(request: Request) -> dict:
    return {"client": request.client.host, "scheme": request.url.scheme, "host": request.headers["host"]}


@app.post("/length")
async def length(request: Request) -> dict:
    return {"bytes": len(await request.body())}
