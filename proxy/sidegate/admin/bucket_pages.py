"""The pages about buckets: found, shown, reset."""

import asyncio
from collections.abc import Callable

from sidegate.admin.access import Problem
from sidegate.decision.bucket import Charge, Limit
from sidegate.decision.policy import OnStoreFailure, Policy, PolicyMatch, PolicySet
from sidegate.decision.stored import BucketStore, StoreSilent
from sidegate.decision.verdict import Decide, DecisionSource, Verdict

Page = dict[str, object]


class BucketPages:
    """Makes the pages. `look` asks for the levels of buckets at no cost; `forget` drops what this sidecar remembers of
    one, or holds of it locally, and returns whether it held any.
    """

    def __init__(
        self,
        policies: Callable[[], PolicySet],
        store: BucketStore,
        look: Decide,
        forget: Callable[[str], bool],
    ) -> None:
        self._policies = policies
        self._store = store
        self._look = look
        self._forget = forget

    async def find(self, name: str, part: str, cursor: str, most: int) -> Page:
        """Buckets of one policy or of all. An answer may be empty though more are to come: go on at its cursor."""
        policies = self._policies()
        prefix = policies.bucket_named(self._policy(name), "") if name else policies.key_prefix
        found = await self._store.find(prefix, part, cursor, most)
        owners = {policies.bucket_named(policy, ""): policy for policy in policies.policies if policy.limit}
        buckets = []
        for stored in found.buckets:
            owner = next((policy for start, policy in owners.items() if stored.name.startswith(start)), None)
            buckets.append(
                {
                    "bucket": stored.name,
                    "policy": owner.name if owner else None,
                    "key": policies.key_in(stored.name, owner) if owner else None,
                    "tokens_at_last_charge": stored.tokens,
                    "ttl_s": stored.ttl_s,
                }
            )
        return {"buckets": buckets, "cursor": found.cursor or None}

    async def show(self, name: str, key: str) -> Page:
        """What one bucket holds now, and when it holds more. Looking takes nothing."""
        policies, policy = self._policies(), self._policy(name)
        override = policies.override_of(policy, key)
        bucket = policies.bucket_named(policy, key)
        page: Page = {"policy": policy.name, "key": key, "bucket": bucket, "shadow": policy.shadow}
        if override is not None and override.limit is None:
            return {**page, "rule": "blocked" if override.blocked else "exempt", "stored": False}
        limit = (override and override.limit) or policy.limit
        assert limit is not None  # noqa: S101  (an exempt policy has no buckets: see _policy)
        stored = await self._store.read(bucket)
        page |= {"rule": "override" if override else "limit", "stored": stored is not None, "limit": _limit(limit)}
        page["ttl_s"] = stored.ttl_s if stored else None
        return page | await self._level(PolicyMatch(policy, Charge(bucket, limit, 0)), limit)

    async def reset(self, name: str, key: str) -> Page:
        """Give a key a new bucket. Our own memory of refusals goes at once, that of other sidecars within a second.

        While the store does not answer, the bucket of a policy that is then decided locally is reset here alone.
        """
        policy = self._policy(name)
        bucket = self._policies().bucket_named(policy, key)
        there, error = False, None
        try:
            there = await self._store.reset(bucket)
        except StoreSilent as silent:
            if policy.on_store_failure is not OnStoreFailure.LOCAL:
                raise
            error = str(silent)
        # After the store: what was refused before it took the bucket out must not be remembered.
        held = self._forget(bucket)
        return {"policy": name, "key": key, "bucket": bucket, "reset": there, "local": held, "store_error": error}

    def _policy(self, name: str) -> Policy:
        found = next((policy for policy in self._policies().policies if policy.name == name), None)
        if found is None or found.limit is None:
            known = ", ".join(policy.name for policy in self._policies().policies if policy.limit) or "none"
            raise Problem(404, f"There is no policy of this name that has buckets; there are: {known}.")
        return found

    async def _level(self, applied: PolicyMatch, limit: Limit) -> Page:
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._look([applied], lambda found: None if verdict.done() else verdict.set_result(found))
        found = await verdict
        level = found.levels[0]
        if level is None or found.decided_by is DecisionSource.STORE_FAILURE:
            raise Problem(503, f"The store does not say what the bucket holds: {found.reason}.")
        full = level.tokens >= limit.burst
        return {
            "tokens": level.tokens,
            "next_token_s": None if full else limit.wait_us(1, level.age_us) / 1e6,
            "full_s": limit.wait_us(limit.burst - level.tokens, level.age_us) / 1e6,
        }


def _limit(limit: Limit) -> Page:
    return {
        "tokens": limit.rate.tokens,
        "period_us": limit.rate.period_us,
        "burst": limit.burst,
        "initial": limit.initial,
    }
