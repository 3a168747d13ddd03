"""Pages of buckets: list, show, reset."""

from collections.abc import Callable

from sidegate.admin.explain_page import Look
from sidegate.admin.limit_document import limit_document, seconds_until
from sidegate.admin.request_models import FindBuckets, OneBucket
from sidegate.admin.response_types import BucketDocument, BucketEntry, BucketsDocument, ResetDocument
from sidegate.admin.responses import Problem
from sidegate.decision.bucket import Charge
from sidegate.decision.policy import OnStoreFailure, Policy, PolicyMatch, PolicySet
from sidegate.decision.stored import BucketStore, StoreSilent
from sidegate.decision.verdict import DecisionSource


class BucketPages:
    """Builds the pages. `look` reads levels without charging.

    `forget` drops what this sidecar remembers of a bucket or holds of it locally, and returns whether it held any.
    """

    def __init__(
        self, policies: Callable[[], PolicySet], store: BucketStore, look: Look, forget: Callable[[str], bool]
    ) -> None:
        self._policies = policies
        self._store = store
        self._look = look
        self._forget = forget

    async def find(self, query: FindBuckets) -> BucketsDocument:
        """Buckets of one policy or of all. A page may be empty although more follow: continue at its cursor."""
        policies = self._policies()
        prefix = policies.bucket_named(self._policy(query.policy), "") if query.policy else policies.key_prefix
        found = await self._store.find(prefix, query.q, query.cursor or "", query.limit)
        owners = {policies.bucket_named(policy, ""): policy for policy in policies.policies if policy.limit}
        buckets: list[BucketEntry] = []
        for stored in found.buckets:
            if ":" not in stored.name.removeprefix(policies.key_prefix):
                continue  # no bucket: the list of proxies, or the breaker's probe
            owner = next((policy for start, policy in owners.items() if stored.name.startswith(start)), None)
            buckets.append(
                {
                    "bucket": stored.name,
                    "policy": owner.name if owner else None,
                    "key": policies.key_in(stored.name, owner) if owner else None,
                    "tokens_at_last_charge": stored.tokens,
                    "in_flight": stored.places,
                    "ttl_s": stored.ttl_s,
                }
            )
        return {"buckets": buckets, "cursor": found.cursor or None}

    async def show(self, at: OneBucket) -> BucketDocument:
        """The present level of one bucket and when it rises. Takes no token."""
        policies, policy = self._policies(), self._policy(at.policy)
        override = policies.override_of(policy, at.key)
        bucket = policies.bucket_named(policy, at.key)
        exempt_or_blocked = override is not None and override.limit is None
        document: BucketDocument = {
            "policy": policy.name,
            "key": at.key,
            "bucket": bucket,
            "shadow": policy.shadow,
            "rule": "override" if override else "limit",
            "stored": False,
        }
        if override is not None and exempt_or_blocked:
            document["rule"] = "blocked" if override.blocked else "exempt"
            return document
        limit = (override and override.limit) or policy.limit
        assert limit is not None  # noqa: S101  (an exempt policy has no buckets: see _policy)
        stored = await self._store.read(bucket)
        document["stored"], document["limit"] = stored is not None, limit_document(limit)
        document["ttl_s"] = stored.ttl_s if stored else None
        charge = Charge(bucket, limit, 0, kind=policy.kind, detail=policy.detail)
        verdict = await self._look([PolicyMatch(policy, charge)])
        level = verdict.levels[0]
        if level is None or verdict.decided_by is DecisionSource.STORE_FAILURE:
            raise Problem(503, f"The store did not return the bucket's level: {verdict.reason}.")
        if limit.in_flight:
            document["in_flight"] = limit.burst - level.tokens
            return document
        document["tokens"] = level.tokens
        document["next_token_s"] = None if level.tokens >= limit.burst else limit.wait_us(1, level.age_us) / 1e6
        document["full_s"] = seconds_until(limit, level, limit.burst)
        return document

    async def reset(self, at: OneBucket) -> ResetDocument:
        """Delete a bucket, so that its key starts with a new one.

        Effective here at once and in other sidecars within a second. While the store does not answer, the bucket of a
        policy that is then decided locally is reset in this sidecar only.
        """
        policy = self._policy(at.policy)
        bucket = self._policies().bucket_named(policy, at.key)
        was_stored, error = False, None
        try:
            was_stored = await self._store.reset(bucket)
        except StoreSilent as silent:
            if policy.on_store_failure is not OnStoreFailure.LOCAL:
                raise
            error = str(silent)
        # After the store: a refusal from before the deletion must not be remembered.
        held = self._forget(bucket)
        return {
            "policy": at.policy,
            "key": at.key,
            "bucket": bucket,
            "reset": was_stored,
            "local": held,
            "store_error": error,
        }

    def _policy(self, name: str) -> Policy:
        found = next((policy for policy in self._policies().policies if policy.name == name), None)
        if found is None or found.limit is None:
            known = ", ".join(policy.name for policy in self._policies().policies if policy.limit) or "none"
            raise Problem(404, f"There is no policy of this name that has buckets; there are: {known}.")
        return found
