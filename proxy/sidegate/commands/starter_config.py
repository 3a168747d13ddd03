"""The small commented configuration that `sidegate init` writes."""

import json
import re

from sidegate.commands.starter_answers import StarterAnswers
from sidegate.config.store_url import split_credentials

_CLAIMED = re.compile("(header|cookie):")
_PLAIN = re.compile(r"[A-Za-z0-9/][A-Za-z0-9_:/|.* -]*")


def starter_config(answers: StarterAnswers) -> str:
    """The text of the file. The store's password is left out: it belongs in REDIS_PASSWORD."""
    store = split_credentials(answers.redis)
    username = f"  username: {_quoted(store.username)}\n" if store.username else ""
    proxies = [each.strip() for each in answers.proxies.split(",") if each.strip()]
    trusted = f"trusted_proxies: [{', '.join(map(_quoted, proxies or ['127.0.0.0/8']))}]"
    client_ip = f"client_ip:\n  {trusted}"
    if not proxies and _CLAIMED.search(answers.key):
        # A proxy has to set or check the identity: `check` warns until one is named.
        client_ip = "# client_ip:\n#   trusted_proxies: [10.0.0.0/8]"
    return f"""\
# Configuration of Sidegate. A valid edit takes effect within two seconds; `sidegate check` checks one before.
# ${{NAME:-default}} reads the environment. `sidegate schema` prints every setting with its default.

listen:
  port: {_reference("PORT", answers.port)}

upstream:
  url: {_reference("UPSTREAM_URL", answers.upstream)}   # the application; let it listen on loopback only

store:
  url: {_reference("REDIS_URL", store.url)}   # the Redis or Valkey that all sidecars share
{username}\
  password: "${{REDIS_PASSWORD:-}}"
  key_prefix: "sidegate:"   # the beginning of all bucket names
  on_failure: {_quoted(answers.on_failure)}   # without the store: deny (503), local (a share of the limit) or allow

# Proxies in front whose X-Forwarded-For and -Proto are trusted. Name the network of a load balancer or an ingress here:
# without it all its clients have its address, and the application sees http for https.
{client_ip}

policies:
  - name: callers
    match: {{path: {_quoted(answers.path)}}}
    key: {answers.key if answers.key.startswith("[") else _quoted(answers.key)}   # one bucket for each of its values
    limit: {_quoted(answers.limit)}
    # burst: 200     # size of a bucket; default: the count in limit
    # shadow: true   # counts and logs, refuses nothing: for a first day in production
"""


def _reference(variable: str, default: str) -> str:
    return json.dumps(f"${{{variable}:-{default}}}", ensure_ascii=False)


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
